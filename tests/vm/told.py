"""A machine's root folder as the engine reads it: what the kernel would say, told by files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skerry.lib.proc import FakeRunner, Result
from skerry.model.osimage import OsImageInfo


@dataclass
class Told:
    """`devices` are the slots' partitions by label, `remount` what really happens to /boot."""

    base: Path
    devices: Mapping[str, str]
    remount: Callable[[str], None] = lambda how: None

    def say(self, path: str, text: str) -> None:
        place = self.base / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def runs(self, slot: str, info: OsImageInfo) -> None:
        """The machine was started from a slot."""
        slaves = self.base / "sys/dev/block/253:0/slaves"
        shutil.rmtree(slaves, ignore_errors=True)
        for label, device in self.devices.items():
            self.say(f"/sys/class/block/{device}/uevent", f"PARTNAME={label}\n")
            if label in (f"skerry-{slot}", f"skerry-{slot}-verity"):
                (slaves / device).mkdir(parents=True)
        self.say("/proc/self/mountinfo", "20 1 253:0 / / ro - erofs /dev/mapper/root ro\n")
        self.say(
            "/proc/cmdline",
            f"roothash={info.root_hash}"
            f" systemd.verity_root_data=/dev/disk/by-uuid/{info.root_uuid}"
            f" systemd.verity_root_hash=/dev/disk/by-uuid/{info.verity_uuid}\n",
        )
        self.say("/proc/sys/kernel/random/boot_id", f"{slot}{info.version}\n")
        self.mounted("ro")

    def mounted(self, how: str) -> None:
        self.say("/proc/mounts", f"/dev/vda2 /boot vfat {how},nodev 0 0\n")

    def runner(self) -> FakeRunner:
        """Commands do nothing, but for a mount of /boot."""
        runner = FakeRunner()
        runner.answer_with("mount", answer=self._mount)
        return runner

    def _mount(self, argv: Sequence[str]) -> Result:
        how = argv[2].removeprefix("remount,")
        self.remount(how)
        self.mounted(how)
        return Result(tuple(argv), 0, "", "")
