"""What the exit code of `skerry` says. Scripts rely on it: a number keeps its meaning."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The codes; `MEANINGS` describes them for the reference."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    CONFLICT = 5
    UNREACHABLE = 6
    INTERRUPTED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "failed; the message says what and what to do",
    ExitCode.USAGE: "the command line or a document is not valid",
    ExitCode.NOT_FOUND: "there is no such object",
    ExitCode.NOT_ALLOWED: "not signed in, not permitted, or not possible as this user",
    ExitCode.CONFLICT: "somebody else changed the object, or it cannot change now",
    ExitCode.UNREACHABLE: "the manager cannot be reached or is not trusted",
    ExitCode.INTERRUPTED: "ended by Ctrl-C",
}


def exit_code(value: object) -> ExitCode:
    """The code of a number that an error carries; unknown numbers mean FAILED."""
    try:
        return ExitCode(int(value))  # type: ignore[call-overload]  # anything that is no number fails below
    except (TypeError, ValueError):
        return ExitCode.FAILED
