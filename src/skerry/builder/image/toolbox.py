"""Programs of the image's own distribution, run from a tree of their own.

The building machine may be older than the image: its mkfs.erofs, ukify or veritysetup would make
something else, or are not there. Programs run in the tree by chroot in a mount namespace of their
own, so that no mount outlives them; the machine's files are below /host there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skerry.lib.proc import CommandFailed, Result, Runner

_HOST = "/host"
_ENTER = (
    'set -e; tree=$1; shift; mount --rbind /dev "$tree/dev"; mount --rbind /proc "$tree/proc"; '
    'mount -t tmpfs -o mode=1777 tmpfs "$tree/tmp"; mount --rbind / "$tree/host"; '
    'exec chroot "$tree" "$@"'
)
_PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/usr/lib/systemd"
# A signature carries the time at which it was made; with the image's own time, equal inputs make
# equal boot images.
_SIGNER = """\
#!/bin/sh
exec faketime -f "$(date -u -d "@$SOURCE_DATE_EPOCH" '+%Y-%m-%d %H:%M:%S')" /usr/bin/sbsign "$@"
"""


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

    async def refusal(self, argv: Sequence[str | Path], *, timeout_s: float = 300.0) -> str | None:
        """The last line that a program wrote when it failed, None when it did not."""
        try:
            await self.run(argv, timeout_s=timeout_s)
        except CommandFailed as exc:
            lines = (exc.result.stderr.strip() or exc.result.stdout.strip()).splitlines()
            return lines[-1] if lines else f"exit code {exc.result.code}"
        return None

    def at(self, path: Path) -> str:
        """Where a path of the machine is for a program of the tree."""
        # A link to an absolute path would lead somewhere else from inside.
        return f"{_HOST}{path.resolve()}"


def prepare(tree: Path) -> None:
    """Make a fresh tree ready to be entered."""
    for name in ("host", "dev", "proc", "tmp"):
        (tree / name).mkdir(exist_ok=True)
    signer = tree / "usr/local/bin/sbsign"
    signer.write_text(_SIGNER)
    signer.chmod(0o755)
