"""What can go wrong between a client and a manager.

Each carries everything the manager said: the problems of a document, what others changed meanwhile,
how long to wait. Exit codes are those of `skerry` (docs/reference/cli.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from skerry.lib.errors import SkerryError
from skerry.model.changes import Difference
from skerry.model.kinds import KINDS, Scope
from skerry.model.problems import Problem


class ApiFailed(SkerryError):
    """The manager answered with a failure. `status` is the HTTP status."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        hint: str = "",
        reason: str = "",
        retryable: bool = False,
        problems: Sequence[Problem] = (),
        changes: Sequence[Difference] = (),
        wait_s: int = 0,
        offset: int = 0,
    ) -> None:
        super().__init__(message, hint=hint, reason=reason, retryable=retryable)
        self.status = status
        self.problems = tuple(problems)
        self.changes = tuple(changes)
        self.wait_s = wait_s
        self.offset = offset


class Refused(ApiFailed):
    """The request or its document is not valid."""

    exit_code = 2


class NotFound(ApiFailed):
    """No such object."""

    exit_code = 3


class NotAllowed(ApiFailed):
    """Not signed in, or not permitted."""

    exit_code = 4


class Conflict(ApiFailed):
    """Somebody else changed the object, or it cannot change now."""

    exit_code = 5


class HistoryGone(ApiFailed):
    """A watch wants changes that the manager no longer has; list again."""


class Unreachable(SkerryError):
    """The manager did not answer."""

    exit_code = 6

    def __init__(self, server: str, why: str, *, hint: str = "") -> None:
        super().__init__(
            f"cannot reach the manager at {server}: {why}",
            hint=hint or "check that it runs, and the address with 'skerry context list'",
            reason="ManagerUnreachable",
            retryable=True,
        )
        self.server = server


class NotTrusted(Unreachable):
    """Whoever answers is not the manager that this context trusts."""

    def __init__(self, server: str, why: str) -> None:
        super().__init__(
            server,
            f"its certificate is not trusted ({why})",
            hint=f"if the manager was made anew: skerry login {server}",
        )


class _Body(msgspec.Struct, kw_only=True, rename="camel"):
    detail: str = ""
    title: str = ""
    hint: str = ""
    reason: str = ""
    problems: tuple[Problem, ...] = ()
    changes: tuple[Difference, ...] = ()
    wait_seconds: int = 0
    offset: int = 0


_CLASSES: dict[int, type[ApiFailed]] = {
    400: Refused,
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    410: HistoryGone,
    413: Refused,
    422: Refused,
}
_TRY_AGAIN = (429, 502, 503, 504)


def failure(status: int, content_type: str, body: bytes) -> ApiFailed:
    """The error of an answer. A body that is no problem document is quoted only in part."""
    kind = _CLASSES.get(status, ApiFailed)
    found = _problem(content_type, body)
    if found is None:
        if status in (404, 405):
            return Refused(
                f"the manager does not know this request (HTTP {status})",
                status=status,
                hint="compare the versions: skerry --version, skerry context show",
            )
        text = body[:200].decode(errors="replace").strip()
        return kind(
            f"the manager answered HTTP {status}{f': {text}' if text else ''}",
            status=status,
            retryable=status in _TRY_AGAIN,
            hint="try again" if status in _TRY_AGAIN else "see the manager's log",
        )
    hint = found.hint
    if status == 401 and not hint:
        hint = "skerry login"
    if status == 404 and not hint:
        hint = _look_for(found.detail)
    return kind(
        found.detail or found.title or f"HTTP {status}",
        status=status,
        hint=hint,
        reason=found.reason,
        retryable=status in _TRY_AGAIN,
        problems=_own(found),
        changes=found.changes,
        wait_s=found.wait_seconds,
        offset=found.offset,
    )


def _look_for(detail: str) -> str:
    """Where to see what there is, for the kind that a text begins with."""
    kind = KINDS.get(detail.partition(" ")[0])
    if kind is None:
        return ""
    everywhere = " --all-projects" if kind.scope is Scope.PROJECT else ""
    return f"see what there is: skerry get {kind.plural}{everywhere}"


def _problem(content_type: str, body: bytes) -> _Body | None:
    if "json" not in content_type:
        return None
    try:
        return msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _own(found: _Body) -> tuple[Problem, ...]:
    """Problems that say more than the failure's own text."""
    return tuple(item for item in found.problems if item.path or item.message != found.detail)
