"""Builds programs from the Go module system, whose checksum database vouches for every module.

Each component gets a small module of its own that requires the upstream module at one version;
minimal version selection then fixes every other version, so recipe + Go version name the result.
The build cache (several GB for Kubernetes) lies in skerry's cache and is dropped after a release;
SKERRY_GOCACHE names another one that is kept.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skerry.builder.cache import Cache, content_id
from skerry.builder.recipes import Recipe, local_source
from skerry.builder.requirements import GO_MINIMUM
from skerry.lib.errors import NotAllowedHere, SkerryError
from skerry.lib.proc import CommandFailed, CommandMissing, Runner

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_STAGING = re.compile(r"^\s*(\S+)\s+=>\s+\./staging/", re.MULTILINE)
_GO_LINE = re.compile(r"^go\s+(\S+)", re.MULTILINE)
_BUILD_LIMIT_S = 5400.0
_FETCH_LIMIT_S = 1200.0

# Raised when how a component is built changes in a way that the recipe does not show.
_BUILD_FORM = 1


class ComponentFailed(SkerryError):
    """A component could not be built."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """The compilers at hand. `native` is how C code is built here, empty when it cannot be."""

    go_version: str
    architecture: str
    native: str = ""


@dataclass(frozen=True, slots=True)
class Component:
    """A built component: a folder with its programs."""

    recipe: Recipe
    content_id: str
    folder: Path

    def program(self, name: str) -> Path:
        """Path of one program."""
        return self.folder / name


def machine_architecture() -> str:
    """This machine's architecture in Go's and OCI's words. Raises NotAllowedHere."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise NotAllowedHere(
            f"releases cannot be built on {machine}", hint="build on amd64 or arm64"
        )
    return _ARCHITECTURES[machine]


async def probe_toolchain(runner: Runner) -> Toolchain:
    """Look at the installed compilers. Raises NotAllowedHere when Go is missing or too old."""
    wanted = ".".join(map(str, GO_MINIMUM))
    try:
        version = (await runner.run(["go", "env", "GOVERSION"], timeout_s=60)).stdout.strip()
    except CommandMissing as exc:
        raise NotAllowedHere("Go is not installed", hint=f"install Go {wanted} or later") from exc
    numbers = re.match(r"go(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < GO_MINIMUM:
        raise NotAllowedHere(
            f"Go is too old: found {version}, wanted {wanted} or later", hint=f"install Go {wanted}"
        )
    return Toolchain(
        go_version=version, architecture=machine_architecture(), native=await _native(runner)
    )


def recipe_id(recipe: Recipe, toolchain: Toolchain) -> str:
    """Content id of what the recipe makes with this toolchain."""
    return content_id(
        {
            "form": _BUILD_FORM,
            "recipe": recipe,
            "source": local_source(recipe.local) if recipe.local else {},
            "go": toolchain.go_version,
            "architecture": toolchain.architecture,
            "native": toolchain.native if recipe.cgo else "",
        }
    )


def go_mod(recipe: Recipe, *, go_line: str, upstream_mod: str = "") -> str:
    """Text of the component's own go.mod.

    `upstream_mod` is the go.mod of the module whose staging folders are to be replaced by their
    releases; a module's replacements do not apply to those who require it.
    """
    lines = [f"module skerry.local/{recipe.name}", "", f"go {go_line}", ""]
    lines += [f"require {module} {version}" for module, version in sorted(recipe.requires.items())]
    if recipe.staging is not None:
        names = sorted(set(_STAGING.findall(upstream_mod)))
        if not names:
            raise ComponentFailed(
                f"go.mod of {recipe.staging.module} names no staging modules",
                hint="the module's layout has changed; adjust kubernetes.yaml",
            )
        version = recipe.staging.version
        lines += ["", "replace (", *(f"\t{name} => {name} {version}" for name in names), ")"]
    return "\n".join(lines) + "\n"


def tools_go(packages: Sequence[str]) -> str:
    """A Go file that imports the packages, so that `go mod tidy` keeps their modules."""
    imports = "".join(f'\t_ "{package}"\n' for package in sorted(packages))
    return f"package main\n\nimport (\n{imports})\n"


def linker_flags(recipe: Recipe) -> str:
    """Value of -ldflags."""
    flags = ["-s", "-w", *(f"-X {name}={value}" for name, value in recipe.variables.items())]
    if recipe.cgo:
        flags.append("-extldflags -static")
    return " ".join(flags)


async def build_component(
    recipe: Recipe, *, toolchain: Toolchain, cache: Cache, runner: Runner, env: Mapping[str, str]
) -> Component:
    """Build a component, or find it in the cache. Raises ComponentFailed."""
    identity = recipe_id(recipe, toolchain)
    entry = f"{recipe.name}-{recipe.version}-{identity}"
    found = cache.find("components", entry)
    if found is None:
        if recipe.cgo and not toolchain.native:
            raise NotAllowedHere(
                f"{recipe.name} contains C code and cannot be built here",
                hint="install gcc, libc6-dev, pkg-config and libseccomp-dev",
            )
        with cache.fill("components", entry) as work:
            source = work / ".source"
            source.mkdir()
            try:
                await _build(recipe, source, work, toolchain, runner, go_environment(cache, env))
            except CommandFailed as exc:
                raise ComponentFailed(
                    f"cannot build {recipe.name} {recipe.version}: {exc.message}",
                    hint="a module that cannot be fetched is tried again by the same command",
                    retryable=True,
                ) from exc
            for name in ("go.mod", "go.sum"):
                if (source / name).exists():
                    (source / name).rename(work / name)
            shutil.rmtree(source)
        found = cache.base / "components" / entry
    return Component(recipe=recipe, content_id=identity, folder=found)


def go_environment(cache: Cache, env: Mapping[str, str]) -> dict[str, str]:
    """What is added to the environment of every Go command."""
    gocache = env.get("SKERRY_GOCACHE") or str(cache.base / "go" / "build")
    return {
        "GOCACHE": gocache,
        "GOFLAGS": "-buildvcs=false",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }


def drop_build_cache(cache: Cache) -> None:
    """Remove the compiler's intermediate results; one that SKERRY_GOCACHE names is kept."""
    shutil.rmtree(cache.base / "go" / "build", ignore_errors=True)


async def _build(
    recipe: Recipe,
    source: Path,
    out: Path,
    toolchain: Toolchain,
    runner: Runner,
    env: dict[str, str],
) -> None:
    """Write the component's own module, resolve it, compile its programs into `out`."""
    settings = {**env, "CGO_ENABLED": "1" if recipe.cgo else "0", "GOARCH": toolchain.architecture}
    if recipe.local:
        for name, text in local_source(recipe.local).items():
            (source / name).write_text(text, encoding="utf-8")
        minimum = ".".join(map(str, GO_MINIMUM))
        (source / "go.mod").write_text(go_mod(recipe, go_line=minimum), encoding="utf-8")
    else:
        texts = [
            await _module_file(module, version, source, runner, settings)
            for module, version in sorted(recipe.requires.items())
        ]
        staging = next(
            (
                text
                for text in texts
                if recipe.staging and f"module {recipe.staging.module}" in text
            ),
            "",
        )
        text = go_mod(recipe, go_line=_highest_go(texts), upstream_mod=staging)
        (source / "go.mod").write_text(text, encoding="utf-8")
        tools = tools_go(list(recipe.programs.values()))
        (source / "tools.go").write_text(tools, encoding="utf-8")
        # -e: a dependency's own tests may need modules that cannot be had; nothing here does.
        await runner.run(
            ["nice", "go", "mod", "tidy", "-e"],
            timeout_s=_FETCH_LIMIT_S,
            cwd=str(source),
            env=settings,
        )
    for program, package in recipe.programs.items():
        await runner.run(
            _build_command(recipe, out / program, package),
            timeout_s=_BUILD_LIMIT_S,
            cwd=str(source),
            env=settings,
        )


def _build_command(recipe: Recipe, target: Path, package: str) -> list[str]:
    tags = [f"-tags={','.join(recipe.tags)}"] if recipe.tags else []
    return [
        *("nice", "go", "build", "-trimpath", *tags),
        *("-ldflags", linker_flags(recipe), "-o", str(target), package),
    ]


async def _module_file(
    module: str, version: str, folder: Path, runner: Runner, env: dict[str, str]
) -> str:
    """Text of a module's go.mod, as the module system has it."""
    result = await runner.run(
        ["go", "mod", "download", "-json", f"{module}@{version}"],
        timeout_s=_FETCH_LIMIT_S,
        cwd=str(folder),
        env=env,
    )
    return Path(json.loads(result.stdout)["GoMod"]).read_text(encoding="utf-8")


def _highest_go(mod_texts: Sequence[str]) -> str:
    lines = [found[1] for text in mod_texts if (found := _GO_LINE.search(text))]
    return max(lines, key=lambda line: [int(part) for part in re.findall(r"\d+", line)])


async def _native(runner: Runner) -> str:
    """Compiler and libseccomp versions, which a static runc contains; empty when one is missing."""
    try:
        compiler = await runner.run(["gcc", "-dumpfullversion"], timeout_s=30, check=False)
        library = await runner.run(
            ["pkg-config", "--modversion", "libseccomp"], timeout_s=30, check=False
        )
    except CommandMissing:
        return ""
    if not compiler.ok or not library.ok:
        return ""
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    return f"gcc {compiler.stdout.strip()}, libseccomp {library.stdout.strip()}, {libc}"
