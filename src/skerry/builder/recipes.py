"""The component table: which versions make up a release and how each component is built.

All of it is data in `data/kubernetes.yaml`; this module reads the file, fills in the versions of
one release, and answers with values. Nothing here touches the disk but the reading of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

import msgspec
import yaml

from skerry.lib.errors import SkerryError
from skerry.model.release import parse_version

_T = TypeVar("_T")


class UnknownRelease(SkerryError):
    """No component table for this version."""


class Staging(msgspec.Struct, frozen=True, kw_only=True):
    """Whose `=> ./staging/...` replacements become released modules, and of which version."""

    module: str
    version: str


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a component's programs are built. `programs` maps program name to Go package.

    `variables` are set by the linker. `local` names a folder of Go source in `data/` instead of
    modules from the module system. `name` and `version` are filled in by `release_table`.
    """

    name: str = ""
    version: str = ""
    requires: dict[str, str] = {}
    staging: Staging | None = None
    programs: dict[str, str]
    variables: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    cgo: bool = False
    local: str = ""


class ImageRecipe(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """A single-program image. `program` is (component, program); `at` its path in the image."""

    name: str
    program: tuple[str, str]
    at: str
    base: str = ""
    user: str = ""
    net_bind: bool = False


class BaseRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A lower layer made of extracted Debian packages, plus symbolic links (path -> target)."""

    suite: str
    packages: tuple[str, ...]
    links: dict[str, str] = {}


class ReleaseTable(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one release, all versions filled in."""

    version: str
    components: dict[str, str]
    recipes: dict[str, Recipe]
    files: dict[str, tuple[str, str]]
    images: dict[str, ImageRecipe]
    bases: dict[str, BaseRecipe]


class _Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: int
    releases: dict[str, dict[str, str]]
    components: dict[str, Recipe]
    files: dict[str, tuple[str, str]]
    images: dict[str, ImageRecipe]
    bases: dict[str, BaseRecipe]


def known_versions() -> list[str]:
    """Kubernetes versions with a component table, oldest first."""
    return sorted(_data().releases, key=parse_version)


def release_table(version: str) -> ReleaseTable:
    """The table of one Kubernetes version ("1.36.3"). Raises UnknownRelease, ReleaseInvalid."""
    major, minor, patch = parse_version(version)
    version = f"{major}.{minor}.{patch}"
    data = _data()
    if version not in data.releases:
        raise UnknownRelease(
            f"no component table for Kubernetes {version}",
            hint=f"known versions: {', '.join(known_versions())}",
        )
    components = {"kubernetes": version, **data.releases[version]}
    values = {**components, "minor": str(minor), "stagingVersion": f"0.{minor}.{patch}"}
    return ReleaseTable(
        version=version,
        components=components,
        recipes={
            name: msgspec.structs.replace(
                _filled(recipe, values, Recipe), name=name, version=components[name]
            )
            for name, recipe in data.components.items()
        },
        files=data.files,
        images={name: _filled(image, values, ImageRecipe) for name, image in data.images.items()},
        bases=data.bases,
    )


def local_source(folder: str) -> dict[str, str]:
    """Source files of a component of our own: file name -> text."""
    place = files("skerry.builder") / "data" / folder
    return {
        entry.name: entry.read_text(encoding="utf-8")
        for entry in sorted(place.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".go")
    }


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with every `{name}` replaced by its value."""
    return text.format_map(values)


def _filled(value: _T, values: dict[str, str], kind: type[_T]) -> _T:
    return msgspec.convert(_fill(msgspec.to_builtins(value), values), type=kind)


def _fill(value: Any, values: dict[str, str]) -> Any:
    if isinstance(value, str):
        return fill(value, values)
    if isinstance(value, dict):
        return {key: _fill(item, values) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fill(item, values) for item in value]
    return value


@cache
def _data() -> _Data:
    text = (files("skerry.builder") / "data" / "kubernetes.yaml").read_text(encoding="utf-8")
    # BaseLoader reads every plain scalar as text: a version such as 1.10 is not a number.
    loaded = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506  # makes only text
    return msgspec.convert(loaded, type=_Data, strict=False)
