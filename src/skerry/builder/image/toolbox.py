"""Programs of the image's own distribution, run from a tree of their own.

The building machine may be older than the image: its mkfs.erofs, ukify or veritysetup would make
something else, or are not there. Programs run in the tree by chroot in a mount namespace of their
own, so that no mount outlives them; the machine's files are below /host there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skerry.lib.proc import Result, Runner

_HOST = "/host"
_ENTER = (
    'set -e; tree=$1; shift; mount --rbind /dev "$tree/dev"; mount --rbind /proc "$tree/proc"; '
    'mount -t tmpfs -o mode=1777 tmpfs "$tree/tmp"; mount --rbind / "$tree/host"; '
    'exec chroot "$tree" "$@"'
)
_PATH = "/usr/sbin:/usr/bin:/usr/lib/systemd"


@dataclass(frozen=True, slots=True)
class Toolbox:
    """A tree of tools and the door to run them by. `epoch` is the time that files get."""

    tree: Path
    runner: Runner
    epoch: int

    async def run(
        self,
        argv: Sequence[str | Path],
        *,
        timeout_s: float,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run a program of the tree; paths among its arguments are the machine's.

        Raises CommandFailed, CommandTimedOut.
        """
        words = [self.at(word) if isinstance(word, Path) else word for word in argv]
        return await self.runner.run(
            [
                *("nice", "unshare", "--mount", "--propagation=private"),
                *("sh", "-c", _ENTER, "sh", str(self.tree), *words),
            ],
            timeout_s=timeout_s,
            stdin=stdin,
            env={
                "PATH": _PATH,
                "SOURCE_DATE_EPOCH": str(self.epoch),
                "LC_ALL": "C.UTF-8",
                "TMPDIR": "/tmp",  # noqa: S108 - the tree's own, in memory
                **(env or {}),
            },
        )

    def at(self, path: Path) -> str:
        """Where a path of the machine is for a program of the tree."""
        return f"{_HOST}{path.absolute()}"


def prepare(tree: Path) -> None:
    """Make a fresh tree ready to be entered."""
    for name in ("host", "dev", "proc", "tmp"):
        (tree / name).mkdir(exist_ok=True)
