"""Kairos' own programs, built from the Go module system like a release's components.

They are not part of anything that skerry ships: a Kairos host brings its own. The tests of the
Kairos engine run against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from skerry.builder.cache import Cache
from skerry.builder.gomodules import build_component, probe_toolchain
from skerry.builder.recipes import Recipe
from skerry.lib.proc import Runner

AGENT_VERSION = "2.31.4"
AGENT = Recipe(
    name="kairos-agent",
    version=AGENT_VERSION,
    requires={"github.com/kairos-io/kairos-agent/v2": f"v{AGENT_VERSION}"},
    programs={"kairos-agent": "github.com/kairos-io/kairos-agent/v2"},
    variables={
        "github.com/kairos-io/kairos-agent/v2/internal/common.VERSION": f"v{AGENT_VERSION}",
    },
)

IMMUCORE_VERSION = "0.20.4"
IMMUCORE = Recipe(
    name="immucore",
    version=IMMUCORE_VERSION,
    requires={"github.com/kairos-io/immucore": f"v{IMMUCORE_VERSION}"},
    programs={"immucore": "github.com/kairos-io/immucore"},
    variables={"github.com/kairos-io/immucore/internal/version.version": f"v{IMMUCORE_VERSION}"},
)


async def kairos_program(
    recipe: Recipe, *, cache: Cache, runner: Runner, env: Mapping[str, str]
) -> Path:
    """The program of `AGENT` or `IMMUCORE`, built once per cache. Raises ComponentFailed,
    NotAllowedHere (no Go, or one that is too old)."""
    built = await build_component(
        recipe, toolchain=await probe_toolchain(runner), cache=cache, runner=runner, env=env
    )
    (name,) = recipe.programs
    return built.program(name)
