"""What goes wrong between the store and its database.

The protocol's own errors (NotFound, Conflict, ...) are answers; these are failures.
"""

from __future__ import annotations

from skerry.lib.errors import SkerryError


class StoreUnavailable(SkerryError):
    """The database does not answer, is locked, full, damaged or closed."""

    exit_code = 6

    def __init__(self, message: str, *, hint: str = "", reason: str = "") -> None:
        super().__init__(
            message,
            hint=hint or "check the database named by --database and its disk, then try again",
            retryable=True,
            reason=reason,
        )


def unstorable(exc: Exception) -> SkerryError:
    """A value that no database takes, such as text with a NUL; trying again does not help."""
    return SkerryError(f"the change holds a value that cannot be stored: {exc}")


class StoreTooNew(SkerryError):
    """A newer skerry changed the database in a way that this version cannot work with."""

    exit_code = 4
