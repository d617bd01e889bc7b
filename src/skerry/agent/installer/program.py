"""`skerry-agent install`: from finding the medium to the restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skerry.agent import sitesources
from skerry.agent.installer import dialogue, probe, write
from skerry.agent.installer.dialogue import GivenUp
from skerry.agent.installer.probe import Medium
from skerry.agent.installer.terminals import Terminals
from skerry.agent.installer.write import Doors, Work
from skerry.agent.sitesources import SiteFound
from skerry.lib.errors import SkerryError
from skerry.plan.diskchoice import Choice, choose
from skerry.plan.sitedata import After, DiskRule, SiteData, Source, merge, to_keep


class NoDisk(SkerryError):
    """No disk may be written."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks. `source` and `disk` empty: found by rule; `stay`: no restart;
    `kinds`: sorts of devices that count as disks (lsblk(8))."""

    unattended: bool = False
    source: str = ""
    stay: bool = False
    kinds: Sequence[str] = ("disk",)
    credentials: str = ""


async def install(doors: Doors, terminals: Terminals, wish: Wish) -> str:
    """Install this machine; the disk that was written, empty when a person gave up.

    Raises NoDisk, NoMedium, InstallFailed and what lies below; nothing was written unless it is
    one of the last two kinds.
    """
    disks = await probe.find_disks(
        doors.root, doors.runner, doors.blocks, doors.mounts, kinds=wish.kinds
    )
    medium = await probe.find_medium(doors.runner, disks, wish.source)
    info, sizes = await write.read_info(doors, medium)
    found = await _site_data(doors, medium, wish)
    terminals.say(f"skerry {info.name} {info.version}: installation")
    _tell_sources(terminals, found)
    told = found.data
    least = write.least_bytes(sizes)
    choice = choose(disks, told.disk or DiskRule(), wipe=told.wipe or False, least_bytes=least)
    try:
        typed, disk = await _decide(terminals, wish, found, choice, least_bytes=least)
    except GivenUp:
        terminals.say("nothing was written")
        return ""
    # What the image itself says, a later image may say otherwise: that is not kept.
    told_here = found.data_from(*(item for item in Source if item is not Source.IMAGE))
    kept = to_keep(merge([told_here, typed]))
    await write.write_disk(doors, Work(medium=medium, info=info, disk=disk, sizes=sizes, kept=kept))
    data = merge([told, typed])
    await write.name_in_firmware(doors, disk, info)
    await doors.runner.run(["sync"], timeout_s=300)
    await _finish(doors, terminals, wish, data, disk)
    return disk


async def _decide(
    terminals: Terminals, wish: Wish, found: SiteFound, choice: Choice, *, least_bytes: int
) -> tuple[SiteData, str]:
    """What was typed, and the disk; nobody is asked when the data says so and nothing speaks
    against it."""
    told = found.data
    unattended = wish.unattended or bool(told.unattended)
    problem = _against(found, choice)
    if unattended and problem is None:
        for text in (*choice.lines(), *plan_lines(told, choice.path)):
            terminals.say(text)
        return SiteData(), choice.path
    if wish.unattended and problem is not None:
        for text in choice.lines():
            terminals.say(text)
        raise problem
    if unattended and problem is not None:
        terminals.say(f"this cannot go on unattended: {problem.message}; {problem.hint}")
    typed, disk = await dialogue.ask_all(terminals, told, choice, least_bytes=least_bytes)
    for text in plan_lines(merge([told, typed]), disk):
        terminals.say(text)
    await dialogue.confirm(terminals)
    return typed, disk


def _against(found: SiteFound, choice: Choice) -> SkerryError | None:
    if found.problems:
        return NoDisk(
            f"the site data has {len(found.problems)} problems", hint="correct them; see above"
        )
    if not choice.path:
        return NoDisk(choice.problem, hint=choice.hint)
    return None


def plan_lines(data: SiteData, disk: str) -> list[str]:
    """What is about to happen, for people; no secrets."""
    kept = "kept on the disk until registration" if data.keep_secrets else "not written to the disk"
    secret = "token" if data.token else "pairing key" if data.pairing_key else ""
    if data.manager:
        how = f"{secret}, {kept}" if secret else "a person approves it"
        manager = f"{', '.join(data.manager)} ({how})"
    else:
        manager = "told later by a stick"
    network = data.network
    cards = [
        ", ".join(nic.addresses) if nic.addresses else f"DHCP on {nic.name or nic.mac or 'all'}"
        for nic in (network.nics if network else ())
    ]
    return [
        "",
        f"  disk       {disk}, all that is on it is lost",
        f"  host name  {data.host_name or 'made from the machine id'}",
        f"  network    {'; '.join(cards) or 'DHCP on every wired card'}",
        f"  manager    {manager}",
        f"  afterwards {(data.after or After.POWEROFF).value}",
        "",
    ]


async def _site_data(doors: Doors, medium: Medium, wish: Wish) -> SiteFound:
    """Site data of all sources; the medium counts as a stick."""
    async with doors.mounts.opened(medium.esp, "vfat") as inside:
        return await sitesources.find_site_data(
            doors.root,
            doors.runner,
            doors.mounts,
            media=((medium.esp, inside),),
            credentials=wish.credentials,
        )


def _tell_sources(terminals: Terminals, found: SiteFound) -> None:
    places = found.places()
    terminals.say(f"site data: {'; '.join(places) if places else 'none was found'}")
    for problem in found.problems:
        hint = f" ({problem.hint})" if problem.hint else ""
        terminals.say(f"problem: {problem.path}: {problem.message}{hint}")


async def _finish(
    doors: Doors, terminals: Terminals, wish: Wish, data: SiteData, disk: str
) -> None:
    after = data.after or After.POWEROFF
    terminals.say(f"skerry is installed on {disk}.")
    if data.manager and (data.token or data.pairing_key) and not data.keep_secrets:
        terminals.say(
            "The token is not on the disk: leave the stick in for the first start, or approve"
            " this host at the manager."
        )
    if wish.stay:
        return
    does = "switches off" if after is After.POWEROFF else "restarts"
    terminals.say(f"Take the medium out; this machine {does}.")
    await doors.runner.run(["systemctl", after.value], timeout_s=60)
