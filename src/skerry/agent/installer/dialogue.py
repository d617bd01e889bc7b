"""What a person is asked before an installation. Every answer is checked at once.

The answers become site data of their own, which count most. Only what the site data leaves open
has to be typed: Enter keeps what stands in brackets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from skerry.agent.installer.terminals import Terminals
from skerry.model.problems import Problem
from skerry.plan.diskchoice import Choice, TargetDisk, Verdict, judge, line
from skerry.plan.sitecheck import check
from skerry.plan.sitedata import DiskRule, NetworkData, SiteData, merge

_NONE = ("-", "none")


class GivenUp(Exception):
    """The person does not want to install."""


async def ask_all(
    terminals: Terminals, told: SiteData, choice: Choice, *, least_bytes: int
) -> tuple[SiteData, str]:
    """What the person typed, and the disk. Raises GivenUp, NobodyThere."""
    disk = await ask_disk(terminals, choice, least_bytes=least_bytes)
    typed = SiteData()
    for ask in (_network, _host_name, _proxy, _manager, _trust, _token):
        typed = merge([typed, await ask(terminals, merge([told, typed]))])
    return typed, disk.path


async def ask_disk(terminals: Terminals, choice: Choice, *, least_bytes: int) -> TargetDisk:
    """A disk that may be written; its name is typed twice when it holds data. Raises GivenUp."""
    terminals.say("\nDisks:")
    for item in choice.verdicts:
        terminals.say(f"  {line(item, chosen=item.disk.path == choice.path)}")
    if choice.problem:
        terminals.say(f"{choice.problem}; {choice.hint}")
    default = choice.path.removeprefix("/dev/")
    while True:
        answer = await terminals.ask(f"Disk to install on{_default(default)} (q: give up): ")
        name = answer or default
        if name in ("q", "quit"):
            raise GivenUp
        found = [item for item in choice.verdicts if item.disk.called(name)]
        if not found:
            terminals.say(f"  no disk is called {name[:60]!r}" if name else "  type a disk's name")
            continue
        verdict = _named(found[0], least_bytes=least_bytes)
        if verdict.fits or (verdict.needs_wipe and await _may_wipe(terminals, verdict)):
            return verdict.disk
        if not verdict.needs_wipe:
            terminals.say(f"  {line(verdict, chosen=False)}")


def _named(verdict: Verdict, *, least_bytes: int) -> Verdict:
    """Judged again as a disk that was named, which a removable one may be."""
    return judge(verdict.disk, DiskRule(path=verdict.disk.path), least_bytes=least_bytes)


async def _may_wipe(terminals: Terminals, verdict: Verdict) -> bool:
    terminals.say(f"  {line(verdict, chosen=False)}")
    answer = await terminals.ask(
        f"  EVERYTHING on it will be lost. Type {verdict.disk.name} again to go on: "
    )
    return answer == verdict.disk.name


async def confirm(terminals: Terminals) -> None:
    """Raises GivenUp."""
    while True:
        answer = (await terminals.ask("Write this disk now? (yes/no): ")).lower()
        if answer in ("yes", "y"):
            return
        if answer in ("no", "n", "q"):
            raise GivenUp


# -- one question each ----------------------------------------------------------------------------


async def _field(
    terminals: Terminals,
    prompt: str,
    default: str,
    build: Callable[[str], dict[str, Any]],
) -> SiteData:
    """Ask until the answer is right; nothing when the default was kept. "-" takes it away."""
    while True:
        answer = await terminals.ask(f"{prompt}{_default(default)}: ")
        if not answer or answer == default:
            return SiteData()
        data, problems = check(build("" if answer.lower() in _NONE else answer))
        if not problems:
            return data
        _tell(terminals, problems)


def _tell(terminals: Terminals, problems: list[Problem]) -> None:
    for problem in problems:
        hint = f" ({problem.hint})" if problem.hint else ""
        terminals.say(f"  {problem.message}{hint}")


def _default(text: str) -> str:
    return f" [{text}]" if text else ""


async def _host_name(terminals: Terminals, told: SiteData) -> SiteData:
    default = told.host_name or "made from the machine's id"
    return await _field(terminals, "Host name", default, lambda text: {"hostName": text})


async def _proxy(terminals: Terminals, told: SiteData) -> SiteData:
    # What is told may hold a password: it is not shown.
    default = "as told" if told.proxy else "none"
    return await _field(terminals, "Proxy, http://NAME:PORT", default, lambda x: {"proxy": x})


async def _manager(terminals: Terminals, told: SiteData) -> SiteData:
    default = " ".join(told.manager or ()) or "none, told later by a stick"
    return await _field(
        terminals,
        "Manager's address, https://NAME:PORT",
        default,
        lambda text: {"manager": text.replace(",", " ").split()},
    )


async def _trust(terminals: Terminals, told: SiteData) -> SiteData:
    if not told.manager:
        return SiteData()
    if told.trust and not told.trust.startswith("sha256:"):
        terminals.say("Manager's authority: the certificate that the site data holds")
        return SiteData()
    default = (told.trust or "").removeprefix("sha256:")
    while True:
        prompt = "CA fingerprint that 'skerry serve' prints (64 digits)"
        found = await _field(terminals, prompt, default, lambda text: {"trust": text})
        if found.trust or (default and found.trust is None):
            return found
        terminals.say("  without it this machine cannot know its manager")


async def _token(terminals: Terminals, told: SiteData) -> SiteData:
    if not told.manager or told.pairing_key:
        return SiteData()
    default = "as told" if told.token else "none, a person approves this host"
    found = await _field(terminals, "Registration token", default, lambda x: {"token": x})
    if not found.token:
        return found
    # Typed once, it is of use only if the installed system has it.
    keep = (
        await terminals.ask("Keep it on the disk until this host is registered? [yes]: ")
    ).lower()
    return msgspec.structs.replace(found, keep_secrets=keep not in ("no", "n"))


async def _network(terminals: Terminals, told: SiteData) -> SiteData:
    default = "as told" if told.network else "dhcp"
    while True:
        answer = await terminals.ask(f"Network, dhcp or an address as 192.0.2.5/24 [{default}]: ")
        if not answer or answer == default:
            return SiteData()
        if answer.lower() == "dhcp":
            return SiteData(network=NetworkData())
        nic: dict[str, Any] = {"addresses": answer.replace(",", " ").split()}
        _, problems = check({"network": {"nics": [nic]}})
        if problems:
            _tell(terminals, problems)
            continue
        return await _static(terminals, nic)


async def _static(terminals: Terminals, nic: dict[str, Any]) -> SiteData:
    """The rest of a card with fixed addresses."""

    def network(more: dict[str, Any], **every: Any) -> dict[str, Any]:
        return {"network": {"nics": [{**nic, **more}], **every}}

    async def more(prompt: str, default: str, key: str, value: Callable[[str], Any]) -> None:
        def build(text: str) -> dict[str, Any]:
            built = network({key: value(text)} if text else {})
            kept["text"] = text
            return built

        kept = {"text": ""}
        found = await _field(terminals, prompt, default, build)
        if found.network is not None and kept["text"]:
            nic[key] = value(kept["text"])

    await more("Network card", "every wired one", "name", str)
    await more("VLAN", "none", "vlan", lambda text: int(text) if text.isdecimal() else text)
    await more("Gateway", "none", "gateway", str)
    await more("Name servers", "none", "dns", lambda text: text.replace(",", " ").split())
    data, _ = check(network({}))
    return data
