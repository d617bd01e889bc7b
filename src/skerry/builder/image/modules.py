"""Which kernel modules an initrd needs: those named, and what they depend on."""

from __future__ import annotations

import lzma
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from skerry.builder.image.errors import ImageBuildFailed

_KEPT = ("modules.builtin", "modules.builtin.modinfo", "modules.order")
_SUFFIX = re.compile(r"\.ko(\.xz|\.zst|\.gz)?$")


def kernel_version(tree: Path) -> str:
    """The only kernel below `tree`/usr/lib/modules. Raises ImageBuildFailed."""
    versions = sorted(place.parent.name for place in (tree / "usr/lib/modules").glob("*/kernel"))
    if len(versions) != 1:
        raise ImageBuildFailed(
            f"the kernel package brings {len(versions)} kernels: {', '.join(versions) or 'none'}",
            hint="name one package with one kernel in spec.kernel.package",
        )
    return versions[0]


def module_name(path: str) -> str:
    """The name that the kernel knows: without folders and suffix, with underscores."""
    return _SUFFIX.sub("", path.rpartition("/")[2]).replace("-", "_")


def closure(dependencies: str, soft: str, wanted: Iterable[str]) -> tuple[list[str], list[str]]:
    """Paths of the modules that `wanted` need, and the wanted names that are no modules.

    `dependencies` is the text of modules.dep, `soft` that of modules.softdep (depmod(8)).
    """
    paths: dict[str, str] = {}
    needs: dict[str, list[str]] = {}
    for line in dependencies.splitlines():
        path, _, rest = line.partition(":")
        paths[module_name(path)] = path
        needs[module_name(path)] = [module_name(item) for item in rest.split()]
    for name, more in _soft(soft).items():
        needs.setdefault(name, []).extend(one for one in more if one in paths)
    missing = [name for name in wanted if name.replace("-", "_") not in paths]
    waiting = [name.replace("-", "_") for name in wanted if name not in missing]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += needs.get(name, [])
    return sorted(paths[name] for name in seen), missing


def copy_modules(source: Path, into: Path, paths: Iterable[str]) -> None:
    """Copy modules from one kernel's folder to another, unpacked: the initrd is packed whole."""
    into.mkdir(parents=True)
    for name in _KEPT:
        if (source / name).exists():
            shutil.copyfile(source / name, into / name)
    for path in paths:
        place = into / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".xz"):
            place.with_suffix("").write_bytes(lzma.decompress((source / path).read_bytes()))
        else:
            shutil.copyfile(source / path, place)


def builtin(source: Path) -> set[str]:
    """Names of the modules that the kernel has built in."""
    text = (source / "modules.builtin").read_text()
    return {module_name(line) for line in text.splitlines()}


def _soft(text: str) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) > 2 and words[0] == "softdep":
            names = [word.replace("-", "_") for word in words[2:] if not word.endswith(":")]
            found.setdefault(words[1].replace("-", "_"), []).extend(names)
    return found
