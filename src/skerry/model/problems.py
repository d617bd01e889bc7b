"""What is wrong with a document: all problems at once, each with its field and what to do.

`path` is dotted with indices ("spec.layers[0].version"), so that an editor can point at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from skerry.lib.errors import SkerryError
from skerry.model.meta import Record


class Problem(Record, frozen=True, kw_only=True):
    """One thing that is wrong. `hint` says what to write instead."""

    path: str
    message: str
    hint: str = ""


class DocumentInvalid(SkerryError):
    """A document was refused. `problems` holds everything that is wrong with it."""

    exit_code = 2

    def __init__(self, what: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = "; ".join(
            f"{problem.path}: {problem.message}" if problem.path else problem.message
            for problem in self.problems[:10]
        )
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        super().__init__(
            f"{what} is not valid: {lines}{more}",
            hint=next((problem.hint for problem in problems if problem.hint), ""),
            reason="DocumentInvalid",
        )


def under(prefix: str, problems: Iterable[Problem]) -> list[Problem]:
    """The same problems, with their paths below `prefix`."""
    return [
        Problem(
            path=f"{prefix}{'' if not p.path or p.path.startswith('[') else '.'}{p.path}",
            message=p.message,
            hint=p.hint,
        )
        for p in problems
    ]
