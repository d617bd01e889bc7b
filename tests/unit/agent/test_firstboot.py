"""From site data to a registration, with nobody logged in; where secrets lie on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from skerry.agent import paths, register
from skerry.agent.causes import ChannelFailed
from skerry.agent.firstboot import FirstBoot, load_site_state
from skerry.agent.identity import load_identity, save_identity
from skerry.agent.sitesources import IMAGE_FILE, find_site_data
from skerry.client.trust import fingerprints
from skerry.lib import pki
from skerry.lib.clock import ManualClock
from skerry.lib.files import Root
from skerry.lib.memory_files import MemoryRoot, PowerCut
from skerry.lib.proc import FakeRunner, Result

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PEM = pki.new_authority("centre", now=NOW).certificate_pem
OTHER = pki.new_authority("evil", now=NOW).certificate_pem
PRINT = f"sha256:{fingerprints(PEM)[0]}"
SECRET = "skt-Tr0ub4dor"
TOLD = f"manager: https://centre.example:8443\ntrust: {PRINT}\nsite: harbour\ntoken: {SECRET}\n"
BLKID = "DEVNAME=/dev/sdb1\nLABEL={label}\nTYPE=vfat\n\nDEVNAME=/dev/vda7\nLABEL=x\nTYPE=ext4\n"


class Enough(Exception):
    """The story is over."""


@dataclass
class Story(ManualClock):
    """At each sleep the next thing happens."""

    happens: list[Callable[[], None]] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if not self.happens:
            raise Enough
        self.happens.pop(0)()


@dataclass
class Machine:
    """An appliance in memory with a slot for a stick."""

    root: MemoryRoot = field(default_factory=MemoryRoot)
    runner: FakeRunner = field(default_factory=FakeRunner)
    clock: Story = field(default_factory=Story)
    stick: dict[str, bytes] | None = None
    label: str = "SKERRY"
    answers: dict[str, str] = field(default_factory=lambda: {"https://centre.example:8443": PEM})
    asked: list[tuple[str, str]] = field(default_factory=list)
    named: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runner.answer_with("blkid", answer=self._blkid)

    def _blkid(self, argv: tuple[str, ...]) -> Result:
        text = BLKID.format(label=self.label) if self.stick is not None else ""
        return Result(argv, 0 if text else 2, text, "")

    @asynccontextmanager
    async def opened(
        self, device: str, kind: str, *, writable: bool = False
    ) -> AsyncIterator[Root]:
        assert (device, kind, writable) == ("/dev/sdb1", "vfat", False)
        yield MemoryRoot(files={f"/{name}": data for name, data in (self.stick or {}).items()})

    async def fetch(self, manager: str, proxy: str) -> str:
        self.asked.append((manager, proxy))
        if manager not in self.answers:
            raise ChannelFailed(f"no connection to {manager}", reason="ManagerUnreachable")
        return f"#!/bin/sh\ncat << PEM\n{self.answers[manager]}PEM\n"

    @property
    def first_boot(self) -> FirstBoot:
        return FirstBoot(
            root=self.root,
            runner=self.runner,
            mounts=self,
            clock=self.clock,
            fetch=self.fetch,
            set_host_name=self.named.append,
            credentials="/run/creds",
        )

    async def run(self, *happens: Callable[[], None]) -> None:
        """`first-boot` until nothing happens any more, or until it ends by itself."""
        self.clock.happens = list(happens)
        try:
            await self.first_boot.run()
        except Enough:
            return

    def plug(self, text: str = TOLD, name: str = "skerry.yaml") -> None:
        self.stick = {name: text.encode()}

    def pull(self) -> None:
        self.stick = None

    def answer(self, state: str) -> None:
        """What the agent does when the manager's answer comes."""
        identity = load_identity(self.root)
        fields = {name: getattr(identity, name) for name in identity.__struct_fields__}
        save_identity(self.root, type(identity)(**{**fields, "state": state, "host_uid": "u1"}))
        if state in ("approved", "denied"):
            register.forget_secrets(self.root)

    def on_disk(self) -> str:
        """All that survives a restart."""
        return "".join(
            data.decode(errors="replace")
            for path, data in self.root.files.items()
            if not path.startswith("/run/")
        )

    def condition(self) -> tuple[str, str]:
        found = load_site_state(self.root).conditions
        return (found[0].reason, found[0].message) if found else ("", "")


async def test_a_stick_that_is_put_in_registers_the_host() -> None:
    machine = Machine()

    await machine.run(machine.plug, lambda: None)

    identity = load_identity(machine.root)
    assert (identity.manager, identity.site) == ("https://centre.example:8443", "harbour")
    assert identity.authorities == (PEM,)
    assert machine.runner.called("systemctl", "--no-block", "restart", "skerry-agent.service")
    assert machine.clock.slept[0] <= 10


async def test_before_anything_is_told_the_screen_says_what_to_do() -> None:
    machine = Machine()

    await machine.run()

    assert machine.condition() == ("SiteDataMissing", "")


async def test_a_volatile_secret_is_in_memory_only() -> None:
    machine = Machine()
    machine.plug()

    await machine.run()

    assert machine.root.read(paths.VOLATILE_TOKEN).decode() == SECRET
    assert SECRET not in machine.on_disk()
    assert "harbour" in machine.on_disk()


async def test_after_a_restart_the_stick_brings_the_volatile_secret_again() -> None:
    machine = Machine()
    machine.plug()
    await machine.run()
    machine.root.remove("/run/skerry")

    await machine.run()

    assert machine.root.read(paths.VOLATILE_TOKEN).decode() == SECRET


async def test_a_secret_that_may_be_kept_lies_in_one_place_until_the_answer() -> None:
    machine = Machine()
    machine.root.write(paths.SITE, (TOLD + "keepSecrets: true\n").encode())

    await machine.run()

    assert machine.root.read(paths.TOKEN).decode() == SECRET
    assert SECRET not in machine.root.read(paths.SITE).decode()

    await machine.run(lambda: machine.answer("approved"))
    assert SECRET not in machine.on_disk()


async def test_with_the_registration_it_ends_and_every_secret_is_gone() -> None:
    machine = Machine()
    machine.plug(TOLD + "keepSecrets: true\n")

    await machine.run(lambda: machine.answer("pending"), lambda: machine.answer("approved"))

    assert load_identity(machine.root).approved
    assert SECRET not in machine.on_disk()
    assert not machine.root.exists(paths.VOLATILE_TOKEN)
    # The stick is still in at every later start.
    await machine.first_boot.apply()
    assert SECRET not in machine.on_disk()


@pytest.mark.parametrize("change", range(1, 9))
@pytest.mark.parametrize("halfway", [False, True])
async def test_a_power_cut_in_the_middle_is_made_up_for(change: int, halfway: bool) -> None:
    machine = Machine()
    machine.plug(TOLD + "keepSecrets: true\nhostName: till-7\n")
    machine.root.cut_power_at(change, halfway=halfway)
    try:
        await machine.run()
    except PowerCut:
        machine.root.power_on()
        machine.root.remove("/run")
        await machine.run()
    machine.root.power_on()

    assert load_identity(machine.root).manager == "https://centre.example:8443"
    assert machine.root.read(paths.TOKEN).decode() == SECRET
    await machine.run(lambda: machine.answer("approved"))
    assert SECRET not in machine.on_disk()


async def test_another_authority_than_the_told_one_is_not_believed() -> None:
    machine = Machine(answers={"https://centre.example:8443": OTHER})
    machine.plug()

    await machine.run(lambda: None)

    assert not machine.root.exists(paths.IDENTITY)
    assert machine.condition()[0] == "ManagerUntrusted"


async def test_of_all_that_is_offered_only_the_told_authority_is_pinned() -> None:
    machine = Machine(answers={"https://centre.example:8443": OTHER + PEM})
    machine.plug()

    await machine.run()

    assert load_identity(machine.root).authorities == (PEM,)


async def test_the_first_manager_that_answers_is_taken_through_the_proxy() -> None:
    machine = Machine(answers={"https://b.example": PEM})
    machine.plug(
        f"manager: [https://a.example, https://b.example]\ntrust: {PRINT}\n"
        "proxy: http://p.example:3128\n"
    )

    await machine.run()

    identity = load_identity(machine.root)
    assert (identity.manager, identity.proxy) == ("https://b.example", "http://p.example:3128")
    assert machine.asked[0] == ("https://a.example", "http://p.example:3128")


async def test_a_manager_that_does_not_answer_yet_is_asked_again_less_and_less_often() -> None:
    machine = Machine(answers={})
    machine.plug()

    await machine.run(
        *[lambda: None] * 8, lambda: machine.answers.update({"https://centre.example:8443": PEM})
    )

    assert machine.clock.slept[:7] == [2, 4, 8, 16, 32, 60, 60]
    assert load_identity(machine.root).manager == "https://centre.example:8443"
    assert machine.condition() == ("", "")


async def test_problems_are_told_with_their_place_and_a_better_stick_counts_at_once() -> None:
    machine = Machine()
    machine.plug("manager: http://plain\nsiet: x\n")

    await machine.run()

    reason, message = machine.condition()
    assert reason == "SiteDataInvalid"
    assert message.startswith("/dev/sdb1:skerry.yaml.")
    assert "1 more" in message
    await machine.run(machine.plug, lambda: None)
    assert load_identity(machine.root).site == "harbour"


async def test_half_of_what_is_needed_is_named() -> None:
    machine = Machine()
    machine.plug("manager: https://centre.example:8443\n")

    await machine.run()

    assert machine.condition() == (
        "SiteDataInvalid",
        "stick (/dev/sdb1:skerry.yaml) does not say: trust",
    )


async def test_a_new_token_reaches_a_registration_that_waits() -> None:
    machine = Machine()
    machine.plug()
    await machine.run(lambda: machine.answer("pending"))
    machine.plug(TOLD.replace(SECRET, "skt-newer"))

    await machine.run()

    assert machine.root.read(paths.VOLATILE_TOKEN) == b"skt-newer"
    assert load_identity(machine.root).state == "pending"


async def test_a_registered_host_is_led_to_no_other_manager() -> None:
    machine = Machine()
    machine.plug()
    await machine.run(lambda: machine.answer("approved"))
    before = load_identity(machine.root)
    machine.answers["https://evil.example"] = PEM
    machine.plug(TOLD.replace("centre.example:8443", "evil.example") + "hostName: other\n")

    await machine.run()
    await machine.first_boot.apply()

    assert load_identity(machine.root) == before
    assert machine.named == []


async def test_cloud_inits_user_data_is_read_too() -> None:
    machine = Machine(label="cidata")
    inner = "\n".join("  " + line for line in TOLD.splitlines())
    machine.plug(f"#cloud-config\nusers: []\nskerry:\n{inner}\n", name="user-data")

    await machine.run()

    assert load_identity(machine.root).site == "harbour"


async def test_later_sources_count_more() -> None:
    machine = Machine()
    root = machine.root
    root.write(IMAGE_FILE, b"site: image\nntp: [image]\nhostName: image\nproxy: http://i:1\n")
    root.write(paths.SITE, b"site: installed\nntp: [installed]\nhostName: installed\n")
    machine.plug("site: stick\nntp: [stick]\n")
    root.write("/run/creds/skerry.site", b"site: credential\n")
    root.write("/proc/cmdline", b"quiet skerry.hostname=line\n")

    found = await find_site_data(root, machine.runner, machine, credentials="/run/creds")

    data = found.data
    assert (data.site, data.ntp, data.host_name, data.proxy) == (
        "credential",
        ("stick",),
        "line",
        "http://i:1",
    )
    assert [layer.source.value for layer in found.layers] == [
        *("image", "installation", "stick", "credential", "command line")
    ]


async def test_what_the_image_says_is_not_frozen_on_the_disk() -> None:
    machine = Machine()
    machine.root.write(IMAGE_FILE, b"ntp: [old.example]\n")
    machine.plug("site: harbour\n")

    await machine.first_boot.apply()

    assert "old.example" not in machine.root.read(paths.SITE).decode()


async def test_network_and_name_are_applied_and_what_is_no_longer_told_goes() -> None:
    machine = Machine()
    machine.root.mkdir("/run/systemd/netif")
    machine.plug("hostName: till-7\nnetwork: {nics: [{name: eno1}, {name: eno2}]}\n")
    await machine.first_boot.apply()
    assert machine.root.read(f"{paths.STATE}/os/hostname") == b"till-7\n"
    assert machine.named == ["till-7"]
    assert len(machine.root.list("/run/systemd/network")) == 2
    reloads = machine.runner.calls.count(("networkctl", "reload"))

    await machine.first_boot.apply()
    assert machine.runner.calls.count(("networkctl", "reload")) == reloads == 1

    machine.plug("hostName: till-7\nnetwork: {nics: [{name: eno1}]}\n")
    await machine.first_boot.apply()
    assert machine.root.list("/run/systemd/network") == ["10-skerry-00.network"]


async def test_a_file_that_is_no_site_data_stops_nothing_else() -> None:
    machine = Machine()
    machine.root.write(IMAGE_FILE, b"\xff")
    machine.plug()

    await machine.run(lambda: None)

    assert load_identity(machine.root).site == "harbour"
    assert machine.condition()[0] == "SiteDataInvalid"
