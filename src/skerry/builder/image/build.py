"""Building an image: the plan's steps in order, each found in the cache or made.

A step's result is a folder in the cache, named by the step's id, that appears by one rename when it
is complete; so a build that was interrupted anywhere goes on where it was. What a person takes
away (disk, artifact, boot images) is written into a folder of theirs, file by file in the same way.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
import msgspec

from skerry.builder.cache import Cache
from skerry.builder.gomodules import machine_architecture
from skerry.builder.image import initrd as initrds
from skerry.builder.image import sealing, toolbox, trees
from skerry.builder.image.errors import ImageBuildFailed
from skerry.builder.image.inputs import (
    appliance_folder,
    gather,
    load_definition,
    load_distribution,
)
from skerry.builder.image.journal import BuildLog, LoggedRunner
from skerry.builder.image.keys import ImageKeys
from skerry.builder.image.root import RootFacts, RootParts, build_root
from skerry.builder.image.sealing import VerityFacts
from skerry.builder.image.toolbox import Toolbox
from skerry.builder.images import Package
from skerry.lib.errors import NotAllowedHere
from skerry.lib.proc import Runner
from skerry.model.image import Distribution, ImageDefinition
from skerry.plan import image as plans
from skerry.plan.image import ImageInputs, ImageStep, plan_image

KIND = "images"
# Steps whose results lie in the cache; the others write into the folder that a person named.
CACHED = (
    "tools",
    "packages",
    "boot",
    "initrd",
    "root",
    "verity",
    "signature",
    "uki",
    "recovery",
    "loader",
    "live",
)
Tell = Callable[[ImageStep, str, float], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What to build and with what. `base` is the definition's folder, `agent` the agent's
    archive or None."""

    definition: ImageDefinition
    distribution: Distribution
    inputs: ImageInputs
    base: Path
    agent: Path | None
    keys: ImageKeys


def open_job(file: Path, keys: ImageKeys, *, agent: str = "", archive: Path | None = None) -> Job:
    """The job that a definition's file describes; `agent` names what is in `archive`.

    Raises DocumentInvalid.
    """
    definition = load_definition(file)
    base = definition.spec.base
    return Job(
        definition=definition,
        distribution=load_distribution(base.distribution, base.release),
        inputs=gather(definition, base=file.parent, agent=agent, keys=keys),
        base=file.parent,
        agent=archive,
        keys=keys,
    )


def cached(cache: Cache, step: ImageStep) -> bool:
    """Whether the step's result is in the cache."""
    return step.name in CACHED and (cache.base / KIND / step.name / step.id).is_dir()


class Build:
    """One run over the steps. `tell` hears of each step: "cached", "begun" or "done"."""

    def __init__(
        self, job: Job, *, cache: Cache, runner: Runner, log: BuildLog, tell: Tell
    ) -> None:
        self.job = job
        self.cache = cache
        self.log = log
        self.runner = LoggedRunner(runner, log)
        self.steps = {
            step.name: step for step in plan_image(job.definition, job.distribution, job.inputs)
        }
        spec = job.definition.spec
        self.origin = trees.Origin(job.distribution.release, spec.architecture, spec.base.as_of)
        self._tell = tell
        self._makers: dict[str, Callable[[Path, Path], Awaitable[None]]] = {
            "tools": self._tools,
            "packages": self._packages,
            "boot": self._boot,
            "initrd": self._initrd,
            "root": self._root,
            "verity": self._verity,
            "signature": self._signature,
            "uki": self._uki,
            "recovery": self._recovery,
            "loader": self._loader,
            "live": self._live,
        }

    async def run(self, *, installer: bool = False) -> None:
        """Make what the cache lacks; the medium's own boot image for an installer only.

        Raises ImageBuildFailed, NotAllowedHere, CommandFailed.
        """
        check_machine(self.job.definition)
        mask = os.umask(0o022)
        try:
            for name in CACHED:
                if installer or name != "live":
                    await self._one(self.steps[name])
        finally:
            os.umask(mask)

    def made(self, name: str) -> Path:
        """Folder of a step's result."""
        return self.cache.base / KIND / name / self.steps[name].id

    @property
    def toolbox(self) -> Toolbox:
        return Toolbox(self.made("tools") / "tree", self.runner, self.origin.epoch)

    def root_facts(self) -> RootFacts:
        """Of the built root."""
        return msgspec.json.decode((self.made("root") / "root.json").read_bytes(), type=RootFacts)

    def verity_facts(self) -> VerityFacts:
        """Of the built tree of hashes."""
        data = (self.made("verity") / "verity.json").read_bytes()
        return msgspec.json.decode(data, type=VerityFacts)

    def bill(self) -> list[Package]:
        """Debian packages of root and initrd."""
        found: list[Package] = []
        for name in ("packages", "boot"):
            data = (self.made(name) / "packages.json").read_bytes()
            found += msgspec.json.decode(data, type=list[Package])
        return found

    async def _one(self, step: ImageStep) -> None:
        if self.cache.find(f"{KIND}/{step.name}", step.id) is not None:
            self.log.write(f"{step.name} {step.id}: in the cache")
            self._tell(step, "cached", 0.0)
            return
        self.log.write(f"{step.name} {step.id}: {step.words}")
        self._tell(step, "begun", 0.0)
        began = self.log.seconds
        with self.cache.fill(f"{KIND}/{step.name}", step.id) as out:
            work = Path(tempfile.mkdtemp(prefix=".work.", dir=out.parent))
            try:
                await self._makers[step.name](out, work)
                self._check_inputs(step)
            finally:
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(work, ignore_errors=True))
            # The rename that follows must not reach the disk before what it stands for.
            await self.runner.run(["sync", "-f", str(out)], timeout_s=300)
        self._tell(step, "done", self.log.seconds - began)
        self.log.write(f"{step.name} done in {self.log.seconds - began:.1f} s")

    def _check_inputs(self, step: ImageStep) -> None:
        """A result must not bear the name of files that changed while they were read."""
        if step.name not in ("initrd", "root"):
            return
        job = self.job
        now = gather(job.definition, base=job.base, agent=job.inputs.agent, keys=job.keys)
        if now != job.inputs:
            raise ImageBuildFailed(
                "files of the image or keys changed while it was built",
                hint="build again",
                retryable=True,
            )

    async def _tools(self, out: Path, work: Path) -> None:
        wanted = self.job.distribution.tools
        tree = out / "tree"
        await trees.install_packages(wanted, self.origin, tree, runner=self.runner, folder=True)
        toolbox.prepare(tree)

    async def _packages(self, out: Path, work: Path) -> None:
        wanted = plans.packages_of(self.job.definition, self.job.distribution)
        tar = out / "tree.tar"
        await trees.install_packages(wanted, self.origin, tar, runner=self.runner)
        _keep(trees.packages_in_tree(tar), out)

    async def _boot(self, out: Path, work: Path) -> None:
        wanted = plans.boot_packages_of(self.job.definition, self.job.distribution)
        tar = out / "tree.tar"
        _keep(await trees.unpack_packages(wanted, self.origin, tar, runner=self.runner), out)
        await self.runner.run(
            ["tar", "-xf", str(tar), "-C", str(work), "--wildcards", "./boot/vmlinuz-*"],
            timeout_s=60,
        )
        sealing.kernel_of(work, out / "vmlinuz")

    async def _initrd(self, out: Path, work: Path) -> None:
        distribution, spec = self.job.distribution, self.job.definition.spec
        parts = initrds.Initrd(
            boot=self.made("boot") / "tree.tar",
            files=appliance_folder("initrd"),
            left_out=distribution.initrd_left_out,
            modules=plans.initrd_modules_of(self.job.definition, distribution),
            must_have=spec.drivers.initrd_modules,
        )
        await initrds.build_initrd(
            parts,
            out / "initrd.cpio.zst",
            work=work,
            tools=self.toolbox,
            runner=self.runner,
            tell=self.log.write,
        )

    async def _root(self, out: Path, work: Path) -> None:
        parts = RootParts(
            definition=self.job.definition,
            distribution=self.job.distribution,
            packages=self.made("packages") / "tree.tar",
            boot=self.made("boot") / "tree.tar",
            files=appliance_folder("root"),
            base=self.job.base,
            agent=self.job.agent,
        )
        facts = await build_root(parts, out, work=work, tools=self.toolbox, runner=self.runner)
        self.log.write(f"root is {facts.size_bytes} bytes, content {facts.content}")

    async def _verity(self, out: Path, work: Path) -> None:
        facts = await sealing.build_verity(
            self.made("root") / "root.erofs", out, tools=self.toolbox
        )
        self.log.write(f"root hash {facts.root_hash}")

    async def _signature(self, out: Path, work: Path) -> None:
        root_hash = self.verity_facts().root_hash
        await sealing.sign_root_hash(root_hash, out, keys=self.job.keys, tools=self.toolbox)

    async def _uki(self, out: Path, work: Path) -> None:
        verity, root = self.verity_facts(), self.root_facts()
        arguments = (
            *plans.kernel_arguments(self.job.definition, self.job.distribution),
            *plans.slot_arguments(verity.root_hash, root.uuid, verity.uuid),
        )
        await self._boot_image(out / "uki.efi", arguments, self.made("root") / "os-release")

    async def _recovery(self, out: Path, work: Path) -> None:
        release = work / "os-release"
        release.write_text(
            'NAME="skerry recovery"\nID=skerry-recovery\nPRETTY_NAME="skerry recovery"\n'
        )
        arguments = plans.recovery_arguments(self.job.distribution)
        await self._boot_image(out / "recovery.efi", arguments, release)

    async def _loader(self, out: Path, work: Path) -> None:
        await sealing.build_loader(
            out / "loader.efi",
            architecture=self.job.definition.spec.architecture,
            keys=self.job.keys,
            tools=self.toolbox,
        )

    async def _live(self, out: Path, work: Path) -> None:
        arguments = (
            *plans.kernel_arguments(self.job.definition, self.job.distribution),
            *plans.live_arguments(self.verity_facts().root_hash),
        )
        await self._boot_image(out / "live.efi", arguments, self.made("root") / "os-release")

    async def _boot_image(self, out: Path, arguments: tuple[str, ...], release: Path) -> None:
        image = sealing.BootImage(
            kernel=self.made("boot") / "vmlinuz",
            initrd=self.made("initrd") / "initrd.cpio.zst",
            version=self.root_facts().kernel,
            release=release,
            arguments=arguments,
            policy=out.name == "uki.efi",
        )
        await sealing.build_uki(
            image,
            out,
            architecture=self.job.definition.spec.architecture,
            keys=self.job.keys,
            tools=self.toolbox,
        )


def check_machine(definition: ImageDefinition) -> None:
    """Raises NotAllowedHere with everything that this machine lacks."""
    lacking = []
    if os.geteuid() != 0:
        lacking.append("root's rights")
    lacking += [
        f"the program {program}"
        for program in ("mmdebstrap", "unshare", "tar", "sync")
        if shutil.which(program) is None
    ]
    own = machine_architecture()
    if definition.spec.architecture != own:
        lacking.append(f"a processor for {definition.spec.architecture} (this one is {own})")
    if lacking:
        raise NotAllowedHere(
            f"an image cannot be built here: there is not {', '.join(lacking)}",
            hint="run as root on Debian or Ubuntu with mmdebstrap installed",
        )


def _keep(packages: list[Package], out: Path) -> None:
    (out / "packages.json").write_bytes(msgspec.json.encode(packages))
