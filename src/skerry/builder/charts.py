"""Helm charts as artifacts: a folder or package of a chart, checked and packed anew.

Everything a chart needs has to be in it: dependencies lie under `charts/`, because a host fetches
nothing but what was signed. Packing anew drops times, owners and order, so that a folder and the
package that `helm package` makes of it give one digest.
"""

from __future__ import annotations

import fnmatch
import gzip
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import yaml

from skerry.builder.cache import Cache, content_id
from skerry.builder.layout import BuiltArtifact, LayoutWriter, describe, sign_layout
from skerry.builder.tarball import TarEntry, write_tar
from skerry.lib.digest import sha256
from skerry.lib.errors import SkerryError
from skerry.model.release import CHART_ARTIFACT_TYPE, CHART_CONFIG_TYPE, ChartMetadata
from skerry.wire.envelope import SigningKey

_KIND = "releases/charts"
# Raised when a chart is packed differently from the same files.
_FORM = 1
ARCHITECTURE = "any"

# Helm loads no larger chart (Helm 4, pkg/chart/loader/archive, MaxDecompressedChartSize).
MAX_BYTES = 100 * 1024 * 1024
_MAX_DOCUMENT = 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,249}")
# semver.org, version 2.0.0.
_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?",
    re.ASCII,
)
_BOM = b"\xef\xbb\xbf"


class ChartInvalid(SkerryError):
    """A chart that Helm or a host could not use; the message holds everything that is wrong."""

    def __init__(self, place: Path, problems: list[str], *, hint: str = "") -> None:
        super().__init__(
            f"{place} is not a chart that can be built: {'; '.join(problems)}",
            hint=hint or "correct the chart",
            reason="ChartInvalid",
        )


@dataclass(frozen=True, slots=True)
class Chart:
    """A checked chart. `files` maps paths inside the chart's folder to content."""

    metadata: ChartMetadata
    files: Mapping[str, bytes]


def build_chart(place: Path, *, cache: Cache, signer: SigningKey | None = None) -> BuiltArtifact:
    """Build the artifact of a chart folder or .tgz into the cache, or find it there.

    Raises ChartInvalid.
    """
    chart = read_chart(place)
    about = chart.metadata
    identity = content_id(
        {"form": _FORM, "files": {name: sha256(data) for name, data in chart.files.items()}}
    )
    entry = f"{about.name}-{about.version}-{identity}"
    found = cache.find(_KIND, entry)
    if found is None:
        with cache.fill(_KIND, entry) as work:
            _assemble(chart, work)
        found = cache.base / _KIND / entry
    if signer is not None:
        sign_layout(found, signer)
    return describe(found)


def read_chart(place: Path) -> Chart:
    """Read and check a chart folder or package. Raises ChartInvalid."""
    files = _folder(place) if place.is_dir() else _package(place, place.read_bytes())
    about, problems = _about(files, "Chart.yaml")
    problems += _metadata_problems(about)
    problems += _dependency_problems(place, about, files)
    problems += _values_problems(files)
    if problems:
        raise ChartInvalid(place, problems)
    return Chart(
        metadata=ChartMetadata(
            name=about["name"],
            version=str(about["version"]),
            app_version=str(about.get("appVersion") or ""),
            description=" ".join(str(about.get("description") or "").split())[:1000],
        ),
        files=files,
    )


def pack(chart: Chart, out: IO[bytes]) -> None:
    """Write the chart as a package (.tgz). Equal files make equal bytes on one machine."""
    entries = [
        TarEntry(path=f"{chart.metadata.name}/{name}", data=data)
        for name, data in chart.files.items()
    ]
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=out, mtime=0) as packed:
        write_tar(entries, cast(IO[bytes], packed))


def _assemble(chart: Chart, into: Path) -> None:
    about = chart.metadata
    name = f"{about.name}-{about.version}.tgz"
    scratch = into / ".chart.tgz"
    with scratch.open("wb") as writing:
        pack(chart, writing)
    writer = LayoutWriter(into)
    writer.add_chart(scratch, path=name)
    scratch.unlink()
    writer.finish(
        about.encode(),
        config_type=CHART_CONFIG_TYPE,
        artifact_type=CHART_ARTIFACT_TYPE,
        name=about.name,
        version=about.version,
        architecture=ARCHITECTURE,
    )


# -- reading -----------------------------------------------------------------------------------


def _folder(place: Path) -> dict[str, bytes]:
    if not (place / "Chart.yaml").is_file():
        raise ChartInvalid(place, ["Chart.yaml is missing"], hint="give the chart's own folder")
    ignored = _ignore_rules(place)
    files: dict[str, bytes] = {}
    left = MAX_BYTES
    for folder, folders, names in os.walk(place):
        base = Path(folder).relative_to(place)
        for name in [*folders, *names]:
            inside, found = (base / name).as_posix(), Path(folder) / name
            plain_folder = found.is_dir() and not found.is_symlink()
            if _is_ignored(inside, ignored, folder=plain_folder):
                if name in folders:
                    folders.remove(name)
                continue
            if plain_folder:
                continue
            if found.is_symlink() or not found.is_file():
                raise ChartInvalid(
                    place, [f"{inside} is not a plain file"], hint="put the file itself there"
                )
            left -= found.stat().st_size
            if left < 0:
                raise _too_large(place)
            files[inside] = found.read_bytes()
    return dict(sorted(files.items()))


def _package(place: Path, data: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    left = MAX_BYTES
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as unpacked:
            for name, size, reading in _members(place, cast(IO[bytes], unpacked)):
                left -= size
                if left < 0:
                    raise _too_large(place)
                files[name] = reading.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as exc:
        raise ChartInvalid(
            place,
            [f"it is not a packaged chart ({exc})"],
            hint="give a chart's folder, or the .tgz that 'helm package' makes",
        ) from exc
    return dict(sorted(files.items()))


def _members(place: Path, unpacked: IO[bytes]) -> Iterator[tuple[str, int, IO[bytes]]]:
    with tarfile.open(fileobj=unpacked, mode="r|") as archive:
        for member in archive:
            if member.isdir():
                continue
            parts = member.name.split("/")
            wrong = "\\" in member.name or any(part in ("", ".", "..") for part in parts)
            if wrong or len(parts) < 2:
                raise ChartInvalid(place, [f"path {member.name[:100]!r} is outside its folder"])
            reading = archive.extractfile(member) if member.isreg() else None
            if reading is None:
                raise ChartInvalid(place, [f"{member.name[:100]} is not a plain file"])
            yield "/".join(parts[1:]), member.size, reading


def _too_large(place: Path) -> ChartInvalid:
    return ChartInvalid(place, [f"it is larger than {MAX_BYTES >> 20} MiB"])


# -- .helmignore -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rule:
    """One line of .helmignore."""

    pattern: str
    negated: bool
    folders_only: bool
    whole_path: bool


def _ignore_rules(place: Path) -> list[_Rule]:
    """Rules as Helm has them (Helm 4, pkg/ignore): shell patterns, no "**"."""
    found = place / ".helmignore"
    text = found.read_text(encoding="utf-8-sig") if found.is_file() else ""
    rules = []
    # Helm leaves hidden files of templates out whatever the file says.
    for line in (*text.splitlines(), "templates/.?*"):
        word = line.strip()
        if not word or word.startswith("#"):
            continue
        if "**" in word:
            raise ChartInvalid(place, ['.helmignore uses "**", which Helm does not know'])
        negated, word = word.startswith("!"), word.removeprefix("!")
        folders_only, word = word.endswith("/"), word.removesuffix("/")
        rules.append(_Rule(word.removeprefix("/"), negated, folders_only, "/" in word))
    return rules


def _is_ignored(path: str, rules: list[_Rule], *, folder: bool) -> bool:
    """Helm stops at the first rule that says so; a negated one says so for all it does not fit."""
    for rule in rules:
        if rule.folders_only and not folder:
            if rule.negated:
                return True
            continue
        if _fits(path, rule) is not rule.negated:
            return True
    return False


def _fits(path: str, rule: _Rule) -> bool:
    """Part by part, because "*" fits no slash."""
    if not rule.whole_path:
        return fnmatch.fnmatchcase(path.rpartition("/")[2], rule.pattern)
    have, want = path.split("/"), rule.pattern.split("/")
    return len(have) == len(want) and all(map(fnmatch.fnmatchcase, have, want))


# -- checking ----------------------------------------------------------------------------------


def _about(files: Mapping[str, bytes], path: str) -> tuple[dict[str, Any], list[str]]:
    """A YAML mapping of the chart, or why there is none."""
    data = files.get(path)
    if data is None:
        return {}, [f"{path} is missing"]
    if len(data) > _MAX_DOCUMENT:
        return {}, [f"{path} is larger than {_MAX_DOCUMENT >> 10} KiB"]
    return _mapping(data, path)


def _mapping(data: bytes, path: str) -> tuple[dict[str, Any], list[str]]:
    try:
        found = yaml.load(data.removeprefix(_BOM), Loader=yaml.BaseLoader)  # noqa: S506  # text only
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as exc:
        return {}, [f"{path} is not YAML: {' '.join(str(exc).split())[:200]}"]
    return (found, []) if isinstance(found, dict) else ({}, [f"{path} is not a mapping"])


def _metadata_problems(about: Mapping[str, Any]) -> list[str]:
    if not about:
        return []
    problems = []
    if about.get("apiVersion") not in ("v1", "v2"):
        problems.append(f"apiVersion is {_short(about.get('apiVersion'))}, wanted v1 or v2")
    name, version = about.get("name"), about.get("version")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        problems.append(f"name is {_short(name)}, wanted letters, digits, '.', '_' and '-'")
    if not isinstance(version, str) or _SEMVER.fullmatch(version) is None:
        problems.append(f"version is {_short(version)}, wanted a semantic version as 1.2.3")
    if about.get("type", "application") not in ("", "application"):
        problems.append(f"type is {_short(about.get('type'))}; only applications can be installed")
    return problems


def _dependency_problems(
    place: Path, about: Mapping[str, Any], files: Mapping[str, bytes]
) -> list[str]:
    """Dependencies that are not under charts/. Chart version 1 lists them in requirements.yaml."""
    declared: Mapping[str, Any] = about
    problems: list[str] = []
    if about.get("apiVersion") == "v1" and "requirements.yaml" in files:
        declared, problems = _about(files, "requirements.yaml")
    wanted = declared.get("dependencies") or []
    if not isinstance(wanted, list) or not all(isinstance(item, dict) for item in wanted):
        return [*problems, "dependencies is not a list of mappings"]
    vendored, wrong = _vendored(place, files)
    missing = [str(item.get("name")) for item in wanted if item.get("name") not in vendored]
    if missing:
        problems.append(
            f"dependencies are not under charts/: {', '.join(missing)};"
            " run 'helm dependency build' in its folder"
        )
    return [*problems, *wrong]


def _vendored(place: Path, files: Mapping[str, bytes]) -> tuple[set[str], list[str]]:
    names: set[str] = set()
    problems: list[str] = []
    for path, data in files.items():
        parts = path.split("/")
        if parts[0] != "charts" or parts[-1].startswith(("_", ".")):
            continue
        if len(parts) == 3 and parts[2] == "Chart.yaml":
            about, wrong = _about(files, path)
        elif len(parts) == 2 and parts[1].endswith((".tgz", ".tar.gz")):
            try:
                about, wrong = _about(_package(place / path, data), "Chart.yaml")
            except ChartInvalid as exc:
                about, wrong = {}, [exc.message]
        else:
            continue
        problems += [f"in {path}: {item}" for item in wrong]
        names.add(str(about.get("name")))
    return names, problems


def _values_problems(files: Mapping[str, bytes]) -> list[str]:
    problems: list[str] = []
    data = files.get("values.yaml", b"")
    # A file of comments alone is empty to Helm too.
    if any(line.strip() and not line.lstrip().startswith(b"#") for line in data.splitlines()):
        problems += _mapping(data, "values.yaml")[1]
    if "values.schema.json" in files:
        try:
            json.loads(files["values.schema.json"])
        except (ValueError, RecursionError) as exc:
            problems.append(f"values.schema.json is not JSON: {exc}")
    return problems


def _short(value: object) -> str:
    return "missing" if value in (None, "") else repr(str(value))[:80]
