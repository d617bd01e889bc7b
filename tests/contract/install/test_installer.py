"""The installer on real partitions: what it writes, what it refuses, and what a power cut leaves.

Medium and target are files behind loop devices; partition table, file systems, erofs and the tree
of hashes are real, and are checked afterwards by the programs that made them famous.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from skerry.agent.installer import probe
from skerry.agent.installer.program import NoDisk, Wish, install
from skerry.agent.installer.write import Doors, InstallFailed
from skerry.lib.blocks import SystemBlocks
from skerry.lib.files import DiskRoot
from skerry.lib.memory_files import PowerCut
from skerry.lib.proc import CommandFailed, Result, SystemRunner
from skerry.plan import bootentries, disklayout
from skerry.plan.installmedium import MARK_OFFSET, esp_files

from .medium import (
    BuiltMedium,
    MtoolsMounts,
    blank,
    build_medium,
    changed_byte,
    copy_out,
    loop,
    missing_programs,
    run,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root"),
    pytest.mark.skipif(bool(missing_programs()), reason=f"programs: {missing_programs()}"),
]

SECRET = "skt-Tr0ub4dor-and-3"
SITE = f"""
manager: https://centre.example:8443
trust: sha256:{"ab" * 32}
token: {SECRET}
site: harbour
hostName: till-7
install: {{unattended: true, disk: {{path: TARGET}}, after: reboot}}
"""


@dataclass
class Typist:
    """A person who answers with what is in the list, and sees what is said."""

    answers: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def say(self, text: str = "") -> None:
        self.said.append(text)

    async def ask(self, prompt: str) -> str:
        self.said.append(prompt)
        return self.answers.pop(0)

    @property
    def text(self) -> str:
        return "\n".join(self.said)


@dataclass
class Power:
    """Goes before the `cut_at`-th thing that is done to the machine."""

    cut_at: int = 0
    done: list[str] = field(default_factory=list)

    def tick(self, what: str) -> None:
        if self.cut_at and len(self.done) >= self.cut_at:
            raise PowerCut
        self.done.append(what)


@dataclass
class RealPrograms:
    """The real programs, but for those that would change this machine; `disks` are all that lsblk
    shows, so that devices of others that come and go disturb nothing."""

    disks: tuple[str, ...]
    power: Power = field(default_factory=Power)
    calls: list[tuple[str, ...]] = field(default_factory=list)
    real: SystemRunner = field(default_factory=SystemRunner)

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        check: bool = True,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Result:
        self.calls.append(tuple(argv))
        self.power.tick(" ".join(argv[:2]))
        if argv[0] in ("systemctl", "efibootmgr", "sync", "blkid"):
            return Result(tuple(argv), 0, "", "")
        if argv[0] == "lsblk":
            argv = [*argv, *self.disks]
        return await self.real.run(
            argv, timeout_s=timeout_s, check=check, stdin=stdin, env=env, cwd=cwd
        )


@dataclass
class Machine:
    """A machine with a medium and a disk."""

    medium: BuiltMedium
    source: str
    target: str
    disk: Path
    runner: RealPrograms = field(init=False)
    mounts: MtoolsMounts = field(default_factory=MtoolsMounts)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self, *, cut_at: int = 0) -> None:
        """Power for so many things more; 0: for ever."""
        self.runner = RealPrograms((self.source, self.target), Power(cut_at))

    def doors(self, typist: Typist) -> Doors:
        return Doors(
            root=DiskRoot("/"),
            runner=self.runner,
            blocks=OnlyTarget(self.target, self.source, self.runner.power),
            mounts=self.mounts,
            say=typist.say,
        )

    async def install(self, typist: Typist, **wish: bool) -> str:
        # Only this test's own devices: a developer's disks are not even looked at.
        return await install(
            self.doors(typist), typist, Wish(source=self.source, kinds=("loop",), **wish)
        )


class OnlyTarget(SystemBlocks):
    """Writes nothing but the target."""

    def __init__(self, target: str, source: str, power: Power) -> None:
        self._target, self._source, self._power = target, source, power

    def write(self, device: str, offset: int, chunks: Iterable[bytes]) -> int:
        assert device.startswith(self._target)
        assert not device.startswith(self._source)
        return super().write(device, offset, self._ticking(device, chunks))

    def flush(self, device: str) -> None:
        self._power.tick(f"flush {device}")
        super().flush(device)

    def _ticking(self, device: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._power.tick(f"write {device}")
            yield chunk


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> BuiltMedium:
    return build_medium(tmp_path_factory.mktemp("medium"))


@pytest.fixture
def machine(medium: BuiltMedium, tmp_path: Path) -> Iterator[Machine]:
    disk = blank(tmp_path / "disk.img")
    with loop(medium.path) as source, loop(disk) as target:
        yield Machine(medium, source, target, disk)


def with_site(machine: Machine, text: str = SITE) -> Machine:
    """The same, with site data on the kernel's command line's place: a file of the medium."""
    esp = machine.source + "p1"
    run(
        "mcopy",
        "-o",
        "-i",
        esp,
        "-",
        "::/skerry.yaml",
        stdin=text.replace("TARGET", machine.target),
    )
    return machine


@pytest.fixture(autouse=True)
def no_site_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "machine" in request.fixturenames:
        medium: BuiltMedium = request.getfixturevalue("medium")
        esp = f"{medium.path}@@{1 << 20}"
        run("mattrib", "-i", esp, "::/")
        try:
            run("mdel", "-i", esp, "::/skerry.yaml")
        except AssertionError:
            return


async def parts_of(machine: Machine) -> dict[str, str]:
    return await probe.partitions(SystemRunner(), machine.target)


async def assert_installed(machine: Machine, tmp_path: Path, *, marked: bool = False) -> None:
    """Everything that the first start needs, judged by other programs than those that wrote it.
    `marked`: the mark may still be there, when the power went after the boot entry."""
    info = machine.medium.info
    parts = await parts_of(machine)
    assert list(parts) == [item.label for item in disklayout.partitions()]
    for label in (disklayout.ESP, disklayout.BOOT):
        run("fsck.vfat", "-n", parts[label])
    run("e2fsck", "-f", "-n", parts[disklayout.STATE])
    run("sfdisk", "--verify", machine.target)
    data, verity = parts[disklayout.data_label("a")], parts[disklayout.verity_label("a")]
    run("veritysetup", "verify", data, verity, info.root_hash)
    for device, uuid in ((data, info.root_uuid), (verity, info.verity_uuid)):
        assert uuid in run("blkid", "-p", "-o", "export", device)
    for name in ("b", "b-verity"):
        assert run("wipefs", "-n", parts[f"skerry-{name}"]) == ""

    esp, boot = tmp_path / "esp", tmp_path / "boot"
    for folder, label in ((esp, disklayout.ESP), (boot, disklayout.BOOT)):
        folder.mkdir(exist_ok=True)
        copy_out(parts[label], folder)
    for item in esp_files("amd64"):
        source = machine.medium.files / item.source
        assert (esp / item.target).read_bytes() == source.read_bytes()
    assert (esp / "loader/keys/auto/db.auth").exists()
    entries = list((boot / "loader/entries").iterdir())
    assert [item.name for item in entries] == ["skerry-000001.conf"]
    entry = bootentries.parse(entries[0].read_text())
    assert entry is not None
    assert (entry.slot, entry.root_hash, entry.generation) == ("a", info.root_hash, 1)
    uki = (boot / entry.uki).read_bytes()
    assert f"sha256:{hashlib.sha256(uki).hexdigest()}" == info.uki.digest
    assert marked or not machine_marked(machine)


def machine_marked(machine: Machine) -> bool:
    return b"skerry" in SystemBlocks().read(machine.target, MARK_OFFSET, 64)


async def found_disk(machine: Machine) -> probe.TargetDisk:
    disks = await probe.find_disks(
        DiskRoot("/"),
        RealPrograms((machine.target,)),
        SystemBlocks(),
        machine.mounts,
        kinds=("loop",),
    )
    return next(item for item in disks if item.path == machine.target)


async def test_a_disk_is_installed_unattended(machine: Machine, tmp_path: Path) -> None:
    with_site(machine)
    typist = Typist()

    assert await machine.install(typist, unattended=True) == machine.target

    await assert_installed(machine, tmp_path)
    assert ("systemctl", "reboot") in machine.runner.calls
    name = machine.target.removeprefix("/dev/")
    assert f"{name}: 6 GiB, empty - chosen" in typist.said
    source = machine.source.removeprefix("/dev/")
    assert f"{source}: the medium this system was started from" in typist.said


async def test_a_volatile_secret_is_nowhere_on_the_disk(machine: Machine, tmp_path: Path) -> None:
    with_site(machine)
    typist = Typist()

    await machine.install(typist, unattended=True)

    parts = await parts_of(machine)
    async with machine.mounts.opened(parts[disklayout.STATE], "ext4") as state:
        kept = state.read("/lib/skerry/site.yaml").decode()
        assert "harbour" in kept
        assert "install" not in kept
        assert state.read("/lib/skerry/os/hostname") == b"till-7\n"
        assert os.stat(state.host_path("/lib/skerry/site.yaml")).st_mode & 0o777 == 0o600
    run("sync")
    found = run("grep", "--count", "--binary-files=text", "skerry", machine.disk)
    assert int(found) > 0, "the search itself works"
    with pytest.raises(AssertionError):
        run("grep", "--quiet", "--binary-files=text", SECRET, machine.disk)
    assert SECRET not in typist.text
    assert not any(SECRET in word for call in machine.runner.calls for word in call)


async def test_a_secret_that_may_be_kept_reaches_the_first_start(machine: Machine) -> None:
    with_site(machine, SITE + "keepSecrets: true\n")

    await machine.install(Typist(), unattended=True)

    parts = await parts_of(machine)
    async with machine.mounts.opened(parts[disklayout.STATE], "ext4") as state:
        assert SECRET in state.read("/lib/skerry/site.yaml").decode()


async def test_a_disk_with_data_is_refused_and_untouched(machine: Machine) -> None:
    with_site(machine)
    run("mkfs.ext4", "-q", "-F", machine.target)
    before = SystemBlocks().read(machine.target, 0, 4 << 20)
    typist = Typist()

    with pytest.raises(NoDisk, match="no disk to install on"):
        await machine.install(typist, unattended=True)

    assert SystemBlocks().read(machine.target, 0, 4 << 20) == before
    assert "holds ext4" in typist.text


async def test_data_is_overwritten_when_it_is_named(machine: Machine, tmp_path: Path) -> None:
    with_site(machine, SITE.replace("after: reboot", "wipe: true"))
    run("mkfs.ext4", "-q", "-F", machine.target)

    await machine.install(Typist(), unattended=True)

    await assert_installed(machine, tmp_path)
    assert ("systemctl", "poweroff") in machine.runner.calls


async def test_an_installed_disk_is_not_taken_again_without_permission(machine: Machine) -> None:
    with_site(machine)
    await machine.install(Typist(), unattended=True)

    disk = await found_disk(machine)

    assert disk.contents[0] == "a skerry system"
    assert not disk.unfinished
    with pytest.raises(NoDisk):
        await machine.install(Typist(), unattended=True)


@pytest.mark.parametrize("phase", range(3))
async def test_a_power_cut_leaves_a_disk_that_is_installed_by_trying_again(
    machine: Machine, tmp_path: Path, phase: int
) -> None:
    """Cuts at every third thing that is done, over an earlier installation that may be wiped; the
    second try has no such permission."""
    may_wipe = SITE.replace("after: reboot", "wipe: true")
    with_site(machine, may_wipe)
    await machine.install(Typist(), unattended=True)
    machine.restart()
    await machine.install(Typist(), unattended=True)
    done = machine.runner.power.done
    first = next(number for number, what in enumerate(done) if what.startswith("write"))
    last = done.index("sync")
    seen = {"untouched": 0, "starts nothing": 0, "installed": 0}

    for cut_at in range(first + phase, last, 3):
        with_site(machine, may_wipe)
        machine.restart(cut_at=cut_at)
        with pytest.raises(PowerCut):
            await machine.install(Typist(), unattended=True)
        with_site(machine)
        disk = await found_disk(machine)
        entry = await has_entry(machine)
        if disk.empty:
            seen["starts nothing"] += 1
            assert not entry, f"unfinished at {cut_at}, {done[cut_at]}, and would start"
            machine.restart()
            await machine.install(Typist(), unattended=True)
        else:
            seen["installed" if cut_at > first + 5 else "untouched"] += 1
            assert entry
        await assert_installed(machine, tmp_path, marked=not disk.empty)

    print(f"cuts: {seen}")
    assert seen["starts nothing"] >= 5


async def has_entry(machine: Machine) -> bool:
    boot = (await parts_of(machine)).get(disklayout.BOOT)
    if not boot:
        return False
    try:
        async with machine.mounts.opened(boot, "vfat") as inside:
            return bool(inside.list("/loader/entries"))
    except CommandFailed:
        return False


async def test_a_medium_with_a_wrong_byte_installs_nothing(
    machine: Machine, medium: BuiltMedium
) -> None:
    with_site(machine)
    table = msgspec.json.decode(run("sfdisk", "--json", medium.path))
    offset = table["partitiontable"]["partitions"][1]["start"] * 512 + (1 << 20)
    changed_byte(medium.path, offset)
    try:
        with pytest.raises(InstallFailed, match="reads back"):
            await machine.install(Typist(), unattended=True)
        assert not await has_entry(machine)
        assert (await found_disk(machine)).unfinished
    finally:
        changed_byte(medium.path, offset)


async def test_a_person_is_asked_and_every_answer_is_checked(
    machine: Machine, tmp_path: Path
) -> None:
    run("mkfs.ext4", "-q", "-F", machine.target)
    name = machine.target.removeprefix("/dev/")
    source = machine.source.removeprefix("/dev/")
    typist = Typist(
        [
            *("nonsense", source, name, "no", name, name),
            *("192.0.2.5", "192.0.2.5/24", "eno1", "5000", "12", "192.0.2.1", "192.0.2.53"),
            *("Till_7", "till-7", "proxy", "http://proxy.example:3128"),
            *("centre.example", "https://centre.example:8443", "abc", "ab" * 32, SECRET, ""),
            *("perhaps", "yes"),
        ]
    )

    assert await machine.install(typist) == machine.target

    assert typist.answers == []
    await assert_installed(machine, tmp_path)
    parts = await parts_of(machine)
    async with machine.mounts.opened(parts[disklayout.STATE], "ext4") as state:
        kept = state.read("/lib/skerry/site.yaml").decode()
    for text in (SECRET, "192.0.2.5/24", "vlan: 12", "eno1", "http://proxy.example:3128", "till-7"):
        assert text in kept
    assert "EVERYTHING on it will be lost" in typist.text
    assert "the medium this system was started from" in typist.text


async def test_a_person_can_give_up(machine: Machine) -> None:
    typist = Typist(["q"])

    assert await machine.install(typist) == ""

    assert (await found_disk(machine)).empty
    assert typist.said[-1] == "nothing was written"
