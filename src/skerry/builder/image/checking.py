"""From a place on disk to a report: the tree of tools, unpacking, looking, tidying up."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import anyio.to_thread

from skerry.builder.cache import Cache
from skerry.builder.gomodules import machine_architecture
from skerry.builder.image import toolbox, trees
from skerry.builder.image.build import KIND
from skerry.builder.image.checks import Report, check_image
from skerry.builder.image.inputs import load_distribution
from skerry.builder.image.inspect import open_image, view_of
from skerry.builder.image.keys import ImageKeys
from skerry.builder.image.toolbox import Toolbox
from skerry.lib.errors import NotAllowedHere
from skerry.lib.proc import Runner
from skerry.model.image import ImageBase, ImageSpec


async def check_place(
    place: Path, *, cache: Cache, runner: Runner, keys: ImageKeys | None, asked: ImageSpec | None
) -> Report:
    """Check a build's folder or a raw disk. Raises ImageBuildFailed, NotAllowedHere."""
    if os.geteuid() != 0:
        raise NotAllowedHere(
            "an image cannot be unpacked without root's rights", hint="run it as root"
        )
    tools = await _tools(cache, runner)
    work = Path(tempfile.mkdtemp(prefix=".check.", dir=cache.folder(KIND)))
    try:
        parts = await open_image(place, work, tools=tools)
        view = await view_of(parts, work, tools=tools, keys=keys, asked=asked)
        return await anyio.to_thread.run_sync(check_image, view)
    finally:
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(work, ignore_errors=True))


async def _tools(cache: Cache, runner: Runner) -> Toolbox:
    """The newest tree of tools that a build left, or one that is made now: any can look."""
    base = ImageBase()
    origin = trees.Origin(base.release, machine_architecture(), base.as_of)
    found = sorted(
        (cache.base / KIND / "tools").glob("*/tree/host"), key=lambda place: place.stat().st_mtime
    )
    if found:
        return Toolbox(found[-1].parent, runner, origin.epoch)
    distribution = load_distribution(base.distribution, base.release)
    with cache.fill(f"{KIND}/tools", "for-checks") as out:
        tree = out / "tree"
        await trees.install_packages(distribution.tools, origin, tree, runner=runner, folder=True)
        toolbox.prepare(tree)
    return Toolbox(cache.base / KIND / "tools" / "for-checks" / "tree", runner, origin.epoch)
