"""Reading what a build starts from: definition, distribution, and the files that they name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import yaml

from skerry.builder.image.initrd import entries_of
from skerry.builder.image.keys import ImageKeys
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.oci import file_digest
from skerry.lib.yamltext import load
from skerry.model.image import (
    Distribution,
    ImageDefinition,
    read_definition,
    read_distribution,
)
from skerry.model.problems import DocumentInvalid, Problem
from skerry.plan.image import ImageInputs

MAX_DEFINITION_BYTES = 1024 * 1024
PARTS = ("root", "initrd")


def load_definition(path: Path) -> ImageDefinition:
    """Raises DocumentInvalid with all problems of form, meaning and missing files."""
    try:
        with path.open("rb") as reading:
            data = reading.read(MAX_DEFINITION_BYTES + 1)
        if len(data) > MAX_DEFINITION_BYTES:
            raise _invalid(path, f"is larger than {MAX_DEFINITION_BYTES} bytes")
        raw = load(data.decode("utf-8"))
    except OSError as exc:
        raise _invalid(path, f"cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise _invalid(path, "is not UTF-8 text") from exc
    except yaml.YAMLError as exc:
        raise _invalid(path, f"is no YAML: {exc}") from exc
    try:
        definition = read_definition(raw)
    except DocumentInvalid as exc:
        raise DocumentInvalid(str(path), exc.problems) from exc
    problems = [
        Problem(path=place, message=f"there is no file {source}", hint=f"looked in {path.parent}")
        for place, source in sources_of(definition).items()
        if not (path.parent / source).is_file()
    ]
    if problems:
        raise DocumentInvalid(str(path), problems)
    return definition


def load_distribution(distribution: str, release: str) -> Distribution:
    """Raises DocumentInvalid when there is no such file, or it is wrong."""
    folder = files("skerry.builder") / "data" / "os"
    name = f"{distribution}-{release}"
    known = sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )
    if name not in known:
        message = f"there is no base {distribution} {release}"
        hint = f"known: {', '.join(known)}"
        raise DocumentInvalid(
            "image definition", [Problem(path="spec.base", message=message, hint=hint)]
        )
    raw = load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    return read_distribution(raw, what=name)


def appliance_folder(part: str) -> Path:
    """Skerry's own files for "root" or "initrd"."""
    return Path(str(files("skerry.builder") / "data" / "appliance" / part))


def sources_of(definition: ImageDefinition) -> dict[str, str]:
    """Files that the definition names, by the place that names them."""
    spec = definition.spec
    found = {
        f"spec.files[{index}].source": file.source
        for index, file in enumerate(spec.files)
        if file.source is not None
    }
    found |= {
        f"spec.trustRoots[{index}].source": root.source
        for index, root in enumerate(spec.trust_roots)
        if root.source is not None
    }
    return found


def gather(
    definition: ImageDefinition, *, base: Path, agent: str, keys: ImageKeys | None
) -> ImageInputs:
    """Digests of all that goes in; `base` is the definition's folder, `agent` what names the
    agent's archive or "". Without keys the steps that sign have other ids than with them."""
    return ImageInputs(
        sources={
            source: file_digest(base / source)[0] for source in sources_of(definition).values()
        },
        appliance={part: folder_digest(appliance_folder(part)) for part in PARTS},
        agent=agent,
        keys=keys.marks() if keys else {},
        policy_generation=max(1, keys.generation) if keys else 1,
    )


def folder_digest(folder: Path) -> str:
    """Digest of names, modes and content, as `copy_files` would copy them."""
    return sha256(canonical_json(entries_of(folder)))


def _invalid(path: Path, message: str) -> DocumentInvalid:
    return DocumentInvalid("image definition", [Problem(path=str(path), message=message)])
