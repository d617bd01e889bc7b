"""The engine of Kairos hosts: drives `kairos-agent`, and adds what Kairos leaves open.

`kairos-agent upgrade` writes the new image and switches to it in one run, so that run belongs to
`activate`; `stage` fetches the image and proves it. GRUB does not count tries for skerry. Instead
the lasting choice is the old slot (`saved_entry`) and the new one starts once (`next_entry`): any
start that follows without a verdict, for whatever cause, is the old slot's. On hosts with trusted
boot systemd-boot counts, and only skerry blesses.
"""

from __future__ import annotations

import msgspec
import structlog

from skerry.agent import paths
from skerry.agent.content import Content
from skerry.agent.osengine import kairos_measure as look
from skerry.agent.osengine.engine import OsEngineFailed, OsReason
from skerry.agent.osengine.kairos_guards import (
    Refusal,
    activate_refusals,
    config_to_check,
    image_problems,
    lost_active,
    reset_refusals,
    stage_refusals,
    upgrade_config,
    wrong_labels,
)
from skerry.agent.osengine.kairos_source import check_image, image_info
from skerry.agent.osengine.kairos_state import (
    ACTIVE,
    BOOT_ENTRY,
    ENTRIES,
    PASSIVE,
    Activating,
    KairosFacts,
    KairosRecord,
    Kept,
    Staged,
    Verdict,
    known_of,
    observed,
    slot_names,
)
from skerry.lib.files import Root
from skerry.lib.proc import CommandFailed, CommandMissing, CommandTimedOut, Result, Runner
from skerry.model.artifact import ArtifactRef
from skerry.model.kairosimage import KairosBoot
from skerry.plan.bootentries import TRIES
from skerry.plan.osupdate import OsObserved

log = structlog.get_logger()

RECORD = f"{paths.STATE}/os/kairos.json"
LOCK = f"{paths.RUN}/kairos.lock"
UPGRADE_CONFIG = "/oem/99_skerry_upgrade.yaml"
HOST_CONFIG = "/oem/91_skerry.yaml"
TRIAL = "/oem/skerry-trial"
KEPT_IDENTITY = "/oem/skerry-identity"
_AGENT = "kairos-agent"
_UPGRADE_LIMIT_S = 3600.0
_COMMAND_LIMIT_S = 120.0
_TAIL_CHARS = 600


class KairosEngine:
    """`OsEngine` of a Kairos host."""

    def __init__(self, root: Root, runner: Runner, *, content: Content, architecture: str) -> None:
        self._root = root
        self._runner = runner
        self._content = content
        self._architecture = architecture

    async def describe(self) -> OsObserved:
        return observed(await self._measure(), self._record())

    async def stage(self, image: ArtifactRef) -> None:
        facts, record = await self._measure(), self._record()
        known = known_of(facts, record, ACTIVE)
        if known is not None and known.image == image.digest:
            return
        if record.staged is not None and record.staged.image == image.digest:
            return
        info = await image_info(self._root, self._content, image)
        _refuse(stage_refusals(facts, record, info))
        path = await self._content.ensure(info.image.digest, size=info.image.size_bytes)
        await check_image(self._root, path, info)
        if record.staged is not None:
            self._content.drop(record.staged.blob)
        staged = Staged(
            image=image.digest,
            version=image.version,
            kairos_version=info.kairos_version,
            blob=info.image.digest,
            size_bytes=info.image.size_bytes,
            unpacked_bytes=info.unpacked_bytes,
        )
        self._keep(msgspec.structs.replace(record, staged=staged))

    async def activate(self, image: ArtifactRef, *, trial_s: int) -> None:
        self._root.remove(UPGRADE_CONFIG)
        facts, record = await self._measure(), self._record()
        known = known_of(facts, record, ACTIVE)
        if known is None or known.image != image.digest:
            if record.staged is None or record.staged.image != image.digest:
                raise OsEngineFailed(
                    OsReason.OS_ENGINE_FAILED,
                    f"image {image.name} {image.version} is not staged on this host",
                    hint="stage it first",
                    retryable=False,
                )
            facts = await self._clear(facts)
            _refuse(activate_refusals(facts, record, record.staged))
            await self._upgrade(facts, record, record.staged)
            facts, record = await self._measure(), self._record()
        record = self._adopt(facts, record, image)
        identity = facts.images[ACTIVE].identity
        if facts.running == ACTIVE and record.known[identity].verdict is Verdict.GOOD:
            return
        self._remember(record, identity, Verdict.PENDING)
        self._root.write(TRIAL, f"{trial_s}\n".encode())
        # A power cut can start the image before it was armed. It is on trial all the same.
        await self._arm(facts, once=facts.running != ACTIVE)

    async def confirm(self) -> None:
        facts, record = await self._measure(), self._record()
        running = facts.running
        if not running:
            raise OsEngineFailed(
                OsReason.OS_NOT_MANAGED,
                "the running system is in none of Kairos' slots",
                hint="restart the host into its active or passive system",
            )
        if facts.boot is KairosBoot.UKI:
            await self._count(facts, running, left=None)
        else:
            await self._choose(facts, lasting="" if running == ACTIVE else ENTRIES[PASSIVE])
        self._root.remove(TRIAL)
        if (known := known_of(facts, record, running)) is not None:
            identity = facts.images[running].identity
            record = msgspec.structs.replace(record, known={**record.known, identity: known})
            self._remember(record, identity, Verdict.GOOD)

    async def roll_back(self) -> None:
        facts, record = await self._measure(), self._record()
        known = known_of(facts, record, ACTIVE)
        if known is None or known.verdict is not Verdict.PENDING:
            return
        # The way back first: a verdict without it would be forgotten by the loader.
        if facts.boot is KairosBoot.UKI:
            await self._count(facts, ACTIVE, left=0)
        else:
            await self._choose(facts, lasting=ENTRIES[PASSIVE])
        self._root.remove(TRIAL)
        identity = facts.images[ACTIVE].identity
        record = msgspec.structs.replace(record, known={**record.known, identity: known})
        self._remember(record, identity, Verdict.BAD)

    async def reset(self, *, keep_identity: bool) -> None:
        facts = await self._measure()
        _refuse(reset_refusals(facts))
        self._root.remove(KEPT_IDENTITY)
        if keep_identity:
            self._copy_identity()
        # A reset takes this file away with everything else. No exit code of kairos-agent proves
        # one, nor does its own record, which it writes only when it finds the partition mounted.
        self._root.write(look.RESET_MARK, f"boot={facts.boot_id}\n".encode())
        await self._call(_AGENT, "bootentry", "--select", "statereset")

    async def apply_config(self, text: str) -> None:
        """Make a cloud-config of skerry's the host's own from the next start on. Raises
        OsEngineFailed when kairos-agent does not take it; the former one stays then."""
        trial = f"{paths.RUN}/91_skerry.yaml"
        self._root.write(trial, config_to_check(text).encode(), mode=0o600)
        try:
            await self._call(_AGENT, "validate", trial)
            self._root.write(HOST_CONFIG, text.encode(), mode=0o600)
        finally:
            self._root.remove(trial)

    # -- the record ----------------------------------------------------------------------------

    def _record(self) -> KairosRecord:
        if not self._root.exists(RECORD):
            return KairosRecord()
        try:
            return msgspec.json.decode(self._root.read(RECORD), type=KairosRecord)
        except (msgspec.DecodeError, RecursionError) as exc:
            # What is forgotten is what was on trial and what was staged; both are done again.
            log.warning("os.record.unreadable", path=RECORD, error=str(exc))
            return KairosRecord()

    def _keep(self, record: KairosRecord) -> None:
        self._root.write(RECORD, msgspec.json.encode(record))

    def _remember(self, record: KairosRecord, identity: str, verdict: Verdict) -> None:
        known = msgspec.structs.replace(record.known[identity], verdict=verdict)
        self._keep(msgspec.structs.replace(record, known={**record.known, identity: known}))

    def _adopt(self, facts: KairosFacts, record: KairosRecord, image: ArtifactRef) -> KairosRecord:
        """The active image becomes a known one. Images that are in no slot are forgotten."""
        known = known_of(facts, record, ACTIVE)
        if known is None or known.image != image.digest:
            raise OsEngineFailed(
                OsReason.OS_ENGINE_FAILED,
                f"after the upgrade the active slot does not hold {image.name} {image.version}",
                hint="the upgrade is tried again by itself",
            )
        here = {item.identity for item in facts.images.values()}
        kept = {key: value for key, value in record.known.items() if key in here}
        kept[facts.images[ACTIVE].identity] = known
        if record.staged is not None and record.staged.image == image.digest:
            self._content.drop(record.staged.blob)
            record = msgspec.structs.replace(record, staged=None)
        return msgspec.structs.replace(record, activating=None, known=kept)

    # -- upgrading -----------------------------------------------------------------------------

    async def _measure(self) -> KairosFacts:
        return await look.measure(self._root, self._runner, self._architecture)

    async def _clear(self, facts: KairosFacts) -> KairosFacts:
        """Take away what a run that was broken off left, and mend what it tore."""
        if facts.upgrading:
            _refuse([_BUSY])
        labels = wrong_labels(facts)
        torn = lost_active(facts)
        leftover = facts.transition_mounted or facts.transition_file
        if not (labels or torn or leftover):
            return facts
        if facts.transition_mounted:
            # kairos-agent may have died in its chroot, with more mounted below.
            done = await self._try("umount", "--recursive", look.TRANSITION)
            if not done.ok:
                _refuse([_BUSY])
        if facts.state and facts.boot is KairosBoot.GRUB:
            await self._writable(facts)
            try:
                await self._mend(facts, labels, torn=torn)
            finally:
                await self._read_only(facts)
        return await self._measure()

    async def _mend(self, facts: KairosFacts, labels: dict[str, str], *, torn: bool) -> None:
        folder = f"{facts.state}/cOS"
        file = f"{folder}/transition.img"
        for device in (await self._try("losetup", "-n", "-O", "NAME", "-j", file)).stdout.split():
            await self._try("losetup", "-d", device)
        self._root.remove(file)
        if torn:
            self._root.rename(f"{folder}/{PASSIVE}.img", f"{folder}/{ACTIVE}.img")
            labels = {ACTIVE: "COS_ACTIVE"}
        for name, label in labels.items():
            await self._call("tune2fs", "-L", label, f"{folder}/{name}.img")
        log.info("os.upgrade.cleared", labels=sorted(labels), active_back=torn)

    async def _upgrade(self, facts: KairosFacts, record: KairosRecord, staged: Staged) -> None:
        path = await self._content.ensure(staged.blob, size=staged.size_bytes)
        before = tuple(sorted(item.identity for item in facts.images.values()))
        begun = Activating(staged=staged, before=before)
        name = slot_names(facts, record)[facts.running]
        kept = Kept(identity=facts.images[facts.running].identity, slot=name)
        self._keep(msgspec.structs.replace(record, activating=begun, kept=kept))
        await self._clear_assessment(facts)
        config = upgrade_config(facts, staged.unpacked_bytes)
        self._root.write(UPGRADE_CONFIG, config.encode())
        self._root.mkdir(paths.RUN)
        try:
            await self._call(*_upgrade_command(facts, path), timeout_s=_UPGRADE_LIMIT_S)
        except OsEngineFailed:
            await self._give_up()
            raise
        finally:
            self._root.remove(UPGRADE_CONFIG)
        if wrong := image_problems(await self._measure(), staged):
            await self._give_up()
            raise OsEngineFailed(
                OsReason.OS_ENGINE_FAILED,
                f"kairos-agent upgraded to {staged.version}, but {'; '.join(wrong)}",
                hint="the next start is the running image's; the upgrade is tried again by itself",
            )

    async def _give_up(self) -> None:
        """After a failed upgrade the next start is the running image's, whatever its file is
        called now."""
        facts = await self._measure()
        if facts.boot is KairosBoot.UKI:
            return
        try:
            facts = await self._clear(facts)
            await self._choose(facts, lasting=ENTRIES[PASSIVE] if facts.running == PASSIVE else "")
        except OsEngineFailed as exc:
            # The upgrade's own failure says more.
            log.warning("os.upgrade.not_cleared", error=exc.message)

    # -- boot entries --------------------------------------------------------------------------

    async def _arm(self, facts: KairosFacts, *, once: bool) -> None:
        """The next start is the active image's (`once`), and any later one the other slot's."""
        if facts.boot is KairosBoot.UKI:
            await self._count(facts, ACTIVE, left=TRIES)
            return
        await self._choose(facts, lasting=ENTRIES[PASSIVE])
        if once:
            await self._call(_AGENT, "bootentry", "--select", ENTRIES[ACTIVE])
        after = await self._measure()
        found = (after.grubenv.get("saved_entry"), after.grubenv.get("next_entry"))
        if found != (ENTRIES[PASSIVE], ENTRIES[ACTIVE] if once else None):
            raise OsEngineFailed(
                OsReason.BOOT_PARTITION_BROKEN,
                f"the boot entries were set, but {look.GRUBENV} says {found}",
                hint="look at the partition COS_OEM; it is tried again by itself",
            )

    async def _choose(self, facts: KairosFacts, *, lasting: str) -> None:
        """Set the lasting choice (empty: Kairos' own, the active slot), nothing for one start,
        and no mark of an earlier attempt."""
        await self._set_variable("saved_entry", lasting)
        await self._set_variable("next_entry", "")
        await self._clear_assessment(facts)

    async def _set_variable(self, name: str, value: str) -> None:
        await self._call(_AGENT, "grubedit", "set", f"{name}={value}")

    async def _clear_assessment(self, facts: KairosFacts) -> None:
        """A mark that Kairos left set would send a good image straight to the fallback."""
        if facts.boot is KairosBoot.UKI or not facts.assessment.get("boot_assessment_tentative"):
            return
        file = f"{facts.state}/boot_assessment"
        await self._writable(facts)
        try:
            await self._call(
                _AGENT, "grubedit", "--grub-file", file, "set", "boot_assessment_tentative="
            )
        finally:
            await self._read_only(facts)

    async def _count(self, facts: KairosFacts, slot: str, *, left: int | None) -> None:
        """Give a slot's entry a boot counter, or none. systemd-boot prefers entries that have
        tries left, or need none, in the order of their sort keys: active, passive, recovery."""
        folder = f"{facts.state}/loader/entries"
        goal = f"{slot}.conf" if left is None else f"{slot}+{left}.conf"
        await self._writable(facts)
        try:
            for name in self._root.list(folder):
                entry = BOOT_ENTRY.fullmatch(name)
                if entry is not None and entry[1] == slot and name != goal:
                    self._root.rename(f"{folder}/{name}", f"{folder}/{goal}")
        finally:
            await self._read_only(facts)

    async def _writable(self, facts: KairosFacts) -> None:
        await self._call("mount", "-o", "remount,rw", facts.state)

    async def _read_only(self, facts: KairosFacts) -> None:
        # As kairos-agent does it: the mount point, not the file system, which others may write.
        await self._try("mount", "-o", "remount,ro,bind", facts.state)

    # -- small things --------------------------------------------------------------------------

    def _copy_identity(self) -> None:
        folder = paths.IDENTITY.rsplit("/", 1)[0]
        self._root.mkdir(KEPT_IDENTITY, mode=0o700)
        for name in self._root.list(folder):
            if not self._root.is_dir(f"{folder}/{name}"):
                data = self._root.read(f"{folder}/{name}")
                self._root.write(f"{KEPT_IDENTITY}/{name}", data, mode=0o600)

    async def _try(self, *argv: str) -> Result:
        return await self._runner.run(argv, timeout_s=_COMMAND_LIMIT_S, check=False)

    async def _call(self, *argv: str, timeout_s: float = _COMMAND_LIMIT_S) -> Result:
        try:
            return await self._runner.run(argv, timeout_s=timeout_s)
        except CommandFailed as exc:
            said = f"{exc.result.stderr}\n{exc.result.stdout}".strip()[-_TAIL_CHARS:]
            raise OsEngineFailed(
                OsReason.OS_ENGINE_FAILED,
                f"{' '.join(argv[:2])} failed with exit code {exc.result.code}: {said}",
                hint="look at /var/log/kairos; it is tried again by itself",
            ) from exc
        except (CommandMissing, CommandTimedOut) as exc:
            raise OsEngineFailed(OsReason.OS_ENGINE_FAILED, exc.message, hint=exc.hint) from exc


_BUSY = Refusal(
    OsReason.OS_BUSY,
    "an upgrade of this host's images is still at work",
    "it goes on by itself when that one has ended; if none runs, restart the host",
)


def _upgrade_command(facts: KairosFacts, path: str) -> tuple[str, ...]:
    """The lock keeps two of ours apart, whatever became of the agent that started the first."""
    command = ("flock", "--nonblock", LOCK, _AGENT, "upgrade", "--source", f"ocifile:{path}")
    if facts.boot is KairosBoot.UKI and facts.running == PASSIVE:
        # The usual way would first copy the active image, which may be broken, over the passive
        # one, which runs.
        return (*command, "--boot-entry", ACTIVE)
    return command


def _refuse(refusals: list[Refusal]) -> None:
    """Raise the first with the words of all."""
    if refusals:
        raise OsEngineFailed(
            refusals[0].reason,
            "; ".join(item.message for item in refusals),
            hint=refusals[0].hint,
            retryable=not any(item.lasting for item in refusals),
        )
