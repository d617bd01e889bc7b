"""The root of skerry's error tree.

    SkerryError
     ├── proc.CommandFailed, proc.CommandTimedOut
     ├── files.FileMissing
     ├── ...each package adds its own below

Every error a person can meet says what failed, on which object, and what to do next (`hint`).
`retryable` is decided where the error is raised, never guessed where it is caught.
"""

from __future__ import annotations


class SkerryError(Exception):
    """An expected failure. Its text is shown to people as it is, without a traceback.

    `reason` is the CamelCase condition reason that this failure becomes on a host or cluster,
    or an empty string when it never becomes one.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        retryable: bool = False,
        reason: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retryable = retryable
        self.reason = reason

    def __str__(self) -> str:
        return self.message


class NotAllowedHere(SkerryError):
    """The surroundings do not permit the operation (not root, missing program, wrong system)."""

    exit_code = 4
