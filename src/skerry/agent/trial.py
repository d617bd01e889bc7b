"""The trial of a new agent: begun by the old one, ended by the new one or by the watchdog.

What decides is one small file that is only ever renamed (see watchdog.sh, which reads it with
plain sh): `trial` becomes `confirmed` or `returning`, never both. Its form is a contract between
versions of the agent. Everything else here (units, counters) can be made or removed again.
"""

from __future__ import annotations

from importlib.resources import files

from skerry.agent import paths
from skerry.lib.errors import SkerryError
from skerry.lib.files import FileMissing, Root
from skerry.lib.proc import Runner
from skerry.model.meta import Record
from skerry.plan.agentupdate import SLOTS, Returned

_TIMER_WANTED = f"{paths.UNITS}/timers.target.wants/{paths.WATCHDOG_TIMER}"
_DROP_IN_FOLDER = paths.TRIAL_DROP_IN.rsplit("/", 1)[0]


class Trial(Record, frozen=True, kw_only=True):
    """Content of the mark. `starts` is how often the program in slot `new` may start, `seconds`
    how long it has; slot `old` is what the host returns to."""

    new: str
    old: str
    starts: int
    seconds: int
    version: str
    digest: str

    def line(self) -> bytes:
        """As watchdog.sh reads it."""
        words = (self.new, self.old, self.starts, self.seconds, self.version, self.digest)
        return (" ".join(str(word) for word in words) + "\n").encode()


class TrialInvalid(SkerryError):
    """The mark of a trial is not readable; no agent of skerry writes such a one."""


def running(root: Root) -> Trial | None:
    """The trial that is not decided yet, if any. Raises TrialInvalid."""
    return _read(root, paths.TRIAL)


async def begin(root: Root, runner: Runner, trial: Trial) -> None:
    """Set the watchdog, then the mark. The link may move only after this.

    Doing it again begins the same trial anew, so an interrupted switch is simply repeated.
    """
    root.write(
        paths.WATCHDOG, files("skerry.agent").joinpath("watchdog.sh").read_bytes(), mode=0o755
    )
    for path, text in _units(trial).items():
        root.write(path, text.encode())
    root.link(_TIMER_WANTED, f"{paths.UNITS}/{paths.WATCHDOG_TIMER}")
    await runner.run(["systemctl", "daemon-reload"], timeout_s=90)
    for path in (paths.STARTS, paths.CONFIRMED, paths.RETURNED, paths.RETURNING):
        root.remove(path)
    root.write(paths.TRIAL, trial.line(), mode=0o600)
    # Before the link moves: from then on there is no moment without somebody who counts.
    await runner.run(["systemctl", "restart", paths.WATCHDOG_TIMER], timeout_s=90)


def confirm(root: Root) -> bool:
    """The program on trial stays. False when the watchdog was first."""
    try:
        root.rename(paths.TRIAL, paths.CONFIRMED)
    except FileMissing:
        return False
    return True


def returned(root: Root, slot: str) -> tuple[Trial, Returned] | None:
    """What the watchdog took back, as long as nobody has called `clear`."""
    trial = _read(root, paths.RETURNED)
    if trial is None and root.read_link(paths.CURRENT) == slot:
        # The script moved the link and then could not finish; the rest is only book-keeping.
        trial = _read(root, paths.RETURNING)
    if trial is None or trial.old != slot:
        return None
    lines = root.read(paths.STARTS).decode().splitlines() if root.exists(paths.STARTS) else []
    return trial, Returned(
        version=trial.version,
        digest=trial.digest,
        trial_s=trial.seconds,
        boots=tuple(line.split()[1] for line in lines if line.startswith("start ")),
        late="late" in lines,
    )


async def clear(root: Root, runner: Runner) -> None:
    """Remove what a decided trial left behind; nothing happens when there is nothing."""
    there = [path for path in (*_leftovers(), *_marks()) if root.exists(path)]
    if not there:
        return
    await runner.run(["systemctl", "stop", paths.WATCHDOG_TIMER], timeout_s=90, check=False)
    for path in _leftovers():
        root.remove(path)
    if root.exists(_DROP_IN_FOLDER) and not root.list(_DROP_IN_FOLDER):
        root.remove(_DROP_IN_FOLDER)
    await runner.run(["systemctl", "daemon-reload"], timeout_s=90, check=False)
    # The marks last: as long as one is there, this is done again.
    for path in _marks():
        root.remove(path)


def _leftovers() -> tuple[str, ...]:
    units = (paths.WATCHDOG_SERVICE, paths.WATCHDOG_TIMER)
    return (_TIMER_WANTED, paths.TRIAL_DROP_IN, *(f"{paths.UNITS}/{unit}" for unit in units))


def _marks() -> tuple[str, ...]:
    return (paths.STARTS, paths.WATCHDOG, paths.CONFIRMED, paths.RETURNED, paths.RETURNING)


def _read(root: Root, path: str) -> Trial | None:
    if not root.exists(path):
        return None
    words = root.read(path).decode(errors="replace").split()
    try:
        new, old, starts, seconds, version, digest = words
        trial = Trial(
            new=new,
            old=old,
            starts=int(starts),
            seconds=int(seconds),
            version=version,
            digest=digest,
        )
    except ValueError as exc:
        raise TrialInvalid(
            f"{path} does not describe a trial of an agent",
            hint="install the agent again with the install line",
            reason="AgentError",
        ) from exc
    if {trial.new, trial.old} != set(SLOTS):
        raise TrialInvalid(f"{path} names slots {new[:20]!r} and {old[:20]!r}", reason="AgentError")
    return trial


def _units(trial: Trial) -> dict[str, str]:
    script = f"/bin/sh {paths.WATCHDOG}"
    return {
        paths.TRIAL_DROP_IN: (
            "# While a new agent is on trial, each of its starts is counted.\n"
            "[Unit]\nStartLimitIntervalSec=0\n\n"
            f"[Service]\nExecStartPre=-{script} start\nRestartSec=2\n"
        ),
        f"{paths.UNITS}/{paths.WATCHDOG_SERVICE}": (
            "[Unit]\nDescription=return to the old skerry agent\n\n"
            f"[Service]\nType=oneshot\nExecStart={script} late\n"
        ),
        f"{paths.UNITS}/{paths.WATCHDOG_TIMER}": (
            "[Unit]\nDescription=time for a new skerry agent to prove itself\n\n"
            f"[Timer]\nOnActiveSec={trial.seconds}\nAccuracySec=1s\n\n"
            "[Install]\nWantedBy=timers.target\n"
        ),
    }
