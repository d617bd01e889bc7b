"""The agent as one archive with its own interpreter, so that a host needs no Python.

PyInstaller makes a folder from a copy of the few packages that the agent may import, in an
environment that holds only the agent's locked dependencies. What the folder needs from a host is
the C library; the lowest version that works is measured, not assumed. The result is an artifact
like any other, an OCI layout to sign and push; its one layer is the archive that the install line
fetches too.
"""

from __future__ import annotations

import gzip
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import IO, cast

import anyio.to_thread
import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from skerry import __version__
from skerry.builder.cache import Cache, content_id
from skerry.builder.gomodules import machine_architecture
from skerry.builder.layout import BuiltArtifact, LayoutWriter, describe
from skerry.builder.tarball import TarEntry, link_entry, write_tar
from skerry.lib.digest import hex_of, sha256
from skerry.lib.errors import NotAllowedHere, SkerryError
from skerry.lib.oci import file_digest
from skerry.lib.proc import CommandFailed, CommandMissing, Runner
from skerry.model.agentrelease import (
    AGENT_ARCHIVE_TYPE,
    AGENT_ARTIFACT_TYPE,
    AGENT_CONFIG_TYPE,
    AgentInfo,
)
from skerry.model.versions import version_order

# The packages that the agent may import (the import contracts say the same).
AGENT_PACKAGES = ("lib", "model", "plan", "wire", "client", "agent")

# Beside the program: the lowest C library that it runs with, empty when it asks for none.
GLIBC_FILE = "glibc"
ARCHIVE_FILE = "skerry-agent.tar.gz"

# Raised when the archive is made differently from the same sources.
_ARCHIVE_FORM = 3
# Raised when the artifact around an equal archive is made differently.
_LAYOUT_FORM = 1
_BUILD_LIMIT_S = 900.0
_GLIBC = re.compile(rb"GLIBC_(\d+)\.(\d+)")
_NOT_NEEDED = ("tkinter", "sqlite3", "unittest", "pydoc", "lib2to3", "ensurepip", "distutils")
_ENTRY = """\
import sys

from skerry.agent.main import main

sys.exit(main())
"""
# Prints "X.Y shared" for an interpreter whose library can be carried along.
_PROBE = (
    "import sys,sysconfig;"
    "print('%d.%d.%d' % sys.version_info[:3], sysconfig.get_config_var('Py_ENABLE_SHARED'))"
)


class AgentBuildFailed(SkerryError):
    """The agent's archive could not be made, or does not start."""


@dataclass(frozen=True, slots=True)
class AgentArchive:
    """A built agent. `path` is the archive, which unpacks to a folder `skerry-agent` with the
    program in it; `artifact` is the layout around it, to sign and push."""

    path: Path
    info: AgentInfo
    artifact: BuiltArtifact


async def build_agent(
    *,
    cache: Cache,
    runner: Runner,
    lock: Path,
    source: Path | None = None,
    version: str = __version__,
) -> AgentArchive:
    """Build the agent for this machine's architecture into the cache, or find it there.

    `lock` is a requirements file with hashes that holds at least the agent's dependencies and
    PyInstaller; `source` is the folder of the `skerry` package; `version` is what the built agent
    says of itself, for builds between two releases. Raises AgentBuildFailed, NotAllowedHere.
    """
    recipe = await _recipe(runner, lock, source, version)
    entry = recipe.entry
    found = cache.find("agent", entry)
    if found is None:
        environment = await _environment(
            recipe.tools, recipe.pinned, recipe.interpreter, cache, runner
        )
        with cache.fill("agent", entry) as work:
            built = Build(recipe.source, environment, work, recipe.python, version)
            await _build(built, runner)
        found = cache.base / "agent" / entry
    info = msgspec.json.decode((found / "agent.json").read_bytes(), type=AgentInfo)
    return AgentArchive(path=found / ARCHIVE_FILE, info=info, artifact=describe(found))


async def agent_entry(
    *, runner: Runner, lock: Path, source: Path | None = None, version: str = __version__
) -> str:
    """Name of what `build_agent` would make: equal names, equal archives. Nothing is built.

    Raises AgentBuildFailed, NotAllowedHere.
    """
    return (await _recipe(runner, lock, source, version)).entry


def write_agent_artifact(folder: Path, out: Path, *, version: str, python: str = "") -> AgentInfo:
    """Make the artifact of an agent in `out` from a folder with a program `skerry-agent` in it.

    Besides the layout, `out` gets the archive under its own name and `agent.json`, its facts.
    """
    out.mkdir(parents=True, exist_ok=True)
    archive = out / f".{ARCHIVE_FILE}.new"
    info = _pack(folder, archive, version=version, python=python)
    (out / "agent.json").write_bytes(msgspec.json.encode(info))
    writer = LayoutWriter(out)
    writer.add_archive(archive, media_type=AGENT_ARCHIVE_TYPE, path=ARCHIVE_FILE)
    writer.finish(
        msgspec.json.encode(info),
        config_type=AGENT_CONFIG_TYPE,
        artifact_type=AGENT_ARTIFACT_TYPE,
        name="agent",
        version=version,
        architecture=info.architecture,
    )
    archive.unlink()
    (out / ARCHIVE_FILE).unlink(missing_ok=True)
    (out / ARCHIVE_FILE).symlink_to(f"blobs/sha256/{hex_of(info.digest)}")
    return info


def glibc_floor(folder: Path) -> str:
    """The highest C library version that any program or library in the folder asks for.

    It is read from the version names in the files, so it can only be too high. Empty when no
    file asks for one.
    """
    highest = (0, 0)
    for path in folder.rglob("*"):
        if not path.is_file() or path.is_symlink():
            continue
        data = path.read_bytes()
        if data.startswith(b"\x7fELF"):
            found = [(int(major), int(minor)) for major, minor in _GLIBC.findall(data)]
            highest = max([highest, *found])
    return "" if highest == (0, 0) else f"{highest[0]}.{highest[1]}"


def dependency_names(roots: Iterable[str]) -> set[str]:
    """Names of the given distributions' dependencies, and of theirs, as installed here."""
    waiting = [canonicalize_name(root) for root in roots]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            wanted = requires(name) or []
        except PackageNotFoundError:
            continue  # Only for other systems or Pythons; the lock's markers say the same.
        for text in wanted:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return seen


def lock_subset(text: str, names: set[str]) -> str:
    """The entries of a requirements file with hashes whose distribution is among `names`."""
    kept = []
    for entry in re.split(r"\n(?=\S)", text):
        name = re.match(r"([A-Za-z0-9._-]+)(\[[^]]*\])?==", entry)
        if name is not None and canonicalize_name(name[1]) in names:
            lines = [line for line in entry.splitlines() if not line.lstrip().startswith("#")]
            kept.append("\n".join(lines).rstrip(" \\"))
    return "\n".join(kept) + "\n"


def archive_entries(folder: Path) -> list[TarEntry]:
    """Entries of a folder under its own name, without its times and owners."""
    entries = []
    for path in sorted(folder.rglob("*")):
        name = f"{folder.name}/{path.relative_to(folder)}"
        if path.is_symlink():
            entries.append(link_entry(name, str(path.readlink())))
        elif path.is_dir():
            entries.append(TarEntry(path=name, mode=0o755, folder=True))
        else:
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            entries.append(TarEntry(path=name, mode=mode, source=path))
    return entries


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What an archive is made from. `entry` names the result, `tools` the environment."""

    source: Path
    interpreter: str
    python: str
    pinned: str
    tools: str
    entry: str


async def _recipe(runner: Runner, lock: Path, source: Path | None, version: str) -> _Recipe:
    if version_order(version) is None:
        raise AgentBuildFailed(
            f"{version[:60]!r} is not a version of an agent", hint="write it as 0.2.0"
        )
    source = source or Path(__file__).parent.parent
    interpreter, python = await _find_interpreter(runner)
    pinned = lock_subset(
        lock.read_text(encoding="utf-8"), dependency_names(["skerry", "pyinstaller"])
    )
    tools = content_id({"lock": pinned, "python": python, "form": _ARCHIVE_FORM})
    identity = content_id(
        {"tools": tools, "layout": _LAYOUT_FORM, "sources": _source_digests(source)}
    )
    entry = f"{version}-{machine_architecture()}-{identity}"
    return _Recipe(source, interpreter, python, pinned, tools, entry)


async def _find_interpreter(runner: Runner) -> tuple[str, str]:
    """Path and version of a Python that can be carried along. Raises NotAllowedHere."""
    own = str(getattr(sys, "_base_executable", sys.executable))
    for path in (own, "/usr/bin/python3"):
        try:
            result = await runner.run([path, "-c", _PROBE], timeout_s=60, check=False)
        except CommandMissing:
            continue
        version, _, shared = result.stdout.strip().partition(" ")
        if shared == "1" and tuple(map(int, version.split(".")[:2])) >= (3, 11):
            return path, version
    raise NotAllowedHere(
        "no Python 3.11 or later with a shared library was found",
        hint="install python3, python3-venv and libpython3-dev",
    )


async def _environment(
    identity: str, pinned: str, interpreter: str, cache: Cache, runner: Runner
) -> Path:
    """A virtual environment with the agent's dependencies and PyInstaller, made once per lock."""
    place = cache.folder("agent") / f"environment-{identity}"
    done = place / ".complete"
    if done.exists():
        return place
    # Made in place: a virtual environment cannot be moved.
    shutil.rmtree(place, ignore_errors=True)
    await runner.run([interpreter, "-m", "venv", str(place)], timeout_s=300)
    requirements = place / "requirements.txt"
    requirements.write_text(pinned, encoding="utf-8")
    await runner.run(
        [
            *(str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--require-hashes", "--only-binary", ":all:", "--disable-pip-version-check"),
            *("-r", str(requirements)),
        ],
        timeout_s=_BUILD_LIMIT_S,
    )
    done.touch()
    return place


@dataclass(frozen=True, slots=True)
class Build:
    """What one build is made from; `work` becomes the entry of the cache."""

    source: Path
    environment: Path
    work: Path
    python: str
    version: str


async def _build(build: Build, runner: Runner) -> None:
    """Freeze the agent, check that it starts, and leave the artifact in `work`."""
    scratch = build.work / ".work"
    copy = scratch / "source"
    for package in AGENT_PACKAGES:
        if (build.source / package).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(build.source / package, copy / "skerry" / package, ignore=ignored)
    text = (build.source / "__init__.py").read_text(encoding="utf-8")
    (copy / "skerry" / "__init__.py").write_text(
        with_version(text, build.version), encoding="utf-8"
    )
    (scratch / "entry.py").write_text(_ENTRY, encoding="utf-8")
    folder = scratch / "dist" / "skerry-agent"
    try:
        await runner.run(
            _freeze_command(build.environment, scratch),
            timeout_s=_BUILD_LIMIT_S,
            cwd=str(scratch),
            # Without them, the order of compiled code and its times differ from run to run.
            env={"PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": "0", "PYTHONPATH": str(copy)},
        )
        started = await runner.run([str(folder / "skerry-agent"), "--version"], timeout_s=60)
    except CommandFailed as exc:
        raise AgentBuildFailed(
            f"the agent's archive cannot be made: {exc.message}",
            hint="a module that the agent may not import shows in the last lines",
        ) from exc
    if started.stdout.split()[:1] != [build.version]:
        raise AgentBuildFailed(
            f"the frozen agent says another version: {started.stdout[:200]!r}",
            hint=f"wanted {build.version}; build again from a clean checkout",
        )

    def write() -> None:
        write_agent_artifact(folder, build.work, version=build.version, python=build.python)

    await anyio.to_thread.run_sync(write)
    shutil.rmtree(scratch)


def with_version(text: str, version: str) -> str:
    """The package's `__init__.py` with another version in it. Raises AgentBuildFailed."""
    changed, count = re.subn(
        r'^__version__ = "[^"]*"$', f'__version__ = "{version}"', text, flags=re.MULTILINE
    )
    if count != 1:
        raise AgentBuildFailed(
            "the package's __init__.py does not hold its version on one line",
            hint='wanted is one line __version__ = "..."',
        )
    return changed


def _freeze_command(environment: Path, scratch: Path) -> list[str]:
    excluded = [word for name in _NOT_NEEDED for word in ("--exclude-module", name)]
    return [
        *("nice", str(environment / "bin" / "python"), "-m", "PyInstaller"),
        *("--onedir", "--strip", "--noconfirm", "--clean", "--log-level", "ERROR"),
        *("--name", "skerry-agent", "--paths", str(scratch / "source")),
        # The agent imports some of its own modules late.
        *("--collect-submodules", "skerry", "--collect-data", "skerry"),
        *excluded,
        *("--distpath", str(scratch / "dist"), "--workpath", str(scratch / "build")),
        *("--specpath", str(scratch), str(scratch / "entry.py")),
    ]


def _pack(folder: Path, out: Path, *, version: str, python: str) -> AgentInfo:
    # The install script reads it before anything of the archive is started.
    glibc = glibc_floor(folder)
    (folder / GLIBC_FILE).write_text(f"{glibc}\n")
    # gzip, not xz: every host has it. No name and no time in the header, for equal digests.
    with (
        out.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as writing,
    ):
        write_tar(archive_entries(folder), cast("IO[bytes]", writing))
    digest, size = file_digest(out)
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return AgentInfo(
        version=version,
        architecture=machine_architecture(),
        digest=digest,
        size_bytes=size,
        unpacked_bytes=sum(sizes),
        glibc=glibc,
        python=python,
    )


def _source_digests(source: Path) -> Mapping[str, str]:
    """Digest of each file that goes into the archive."""
    paths = [source / "__init__.py"]
    for package in AGENT_PACKAGES:
        paths += (source / package).rglob("*")
    return {
        str(path.relative_to(source)): sha256(path.read_bytes())
        for path in paths
        if path.is_file() and "__pycache__" not in path.parts
    }
