"""Answers of the API: objects as JSON, failures as RFC 9457 problem documents."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response

from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskFull
from skerry.manager.auth.accounts import SignInFailed
from skerry.manager.services.blobs import BlobMissing, BlobRefused
from skerry.manager.services.centre import NotPermitted, NotSignedIn
from skerry.manager.services.objects import Applied, ChangedMeanwhile, DeleteWaits
from skerry.manager.store.protocol import Conflict, HistoryGone, LimitReached, NotFound
from skerry.model.problems import DocumentInvalid, Problem

log = structlog.get_logger("skerry.api")

_STATUS: tuple[tuple[type[SkerryError], int], ...] = (
    (DocumentInvalid, 422),
    (SignInFailed, 401),
    (NotSignedIn, 401),
    (NotPermitted, 403),
    (NotFound, 404),
    (BlobMissing, 404),
    (ChangedMeanwhile, 409),
    (DeleteWaits, 409),
    (Conflict, 409),
    (LimitReached, 409),
    (HistoryGone, 410),
    (BlobRefused, 409),
    (DiskFull, 507),
)
TITLES = {
    400: "Bad request",
    401: "Not signed in",
    403: "Not permitted",
    404: "Not found",
    409: "Conflict",
    410: "History is gone",
    413: "Too large",
    422: "Document is not valid",
    429: "Too many requests",
    500: "Internal error",
    503: "Unavailable",
    507: "No space left",
}


class RequestInvalid(SkerryError):
    """A request that cannot be understood; `status` is its HTTP status."""

    exit_code = 2

    def __init__(self, message: str, *, status: int = 400, hint: str = "") -> None:
        super().__init__(message, hint=hint, reason="RequestInvalid")
        self.status = status


def reply(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value as JSON."""
    return Response(
        msgspec.json.encode(value),
        status_code=status,
        media_type="application/json",
        headers={"cache-control": "no-store", **(headers or {})},
    )


def applied(done: Applied, *, dry_run: bool) -> Response:
    """What an apply did. A dry run answers with the change instead of making it."""
    if dry_run:
        return reply(
            {
                "dryRun": True,
                "created": done.created,
                "changes": done.changes,
                "reactions": done.reactions,
                "object": done.resource,
            }
        )
    status = 201 if done.created else 200
    if not done.once:
        return reply(done.resource, status=status)
    body = msgspec.to_builtins(done.resource)
    return reply({**body, **done.once}, status=status)


def status_of(exc: SkerryError) -> int:
    """The HTTP status of an expected failure."""
    own = getattr(exc, "status", None)
    if isinstance(own, int):
        return own
    for kind, status in _STATUS:
        if isinstance(exc, kind):
            return status
    return 503 if exc.retryable else 400


def problem(exc: SkerryError, *, instance: str = "") -> Response:
    """An expected failure as application/problem+json."""
    status = status_of(exc)
    body: dict[str, Any] = {
        "type": f"https://skerry.dev/problems/{exc.reason or type(exc).__name__}",
        "title": TITLES.get(status, "Failed"),
        "status": status,
        "detail": exc.message,
        "reason": exc.reason or type(exc).__name__,
    }
    if exc.hint:
        body["hint"] = exc.hint
    if instance:
        body["instance"] = instance
    headers: dict[str, str] = {}
    if isinstance(exc, DocumentInvalid):
        body["problems"] = exc.problems
    elif isinstance(exc, ChangedMeanwhile):
        body["changes"] = exc.changes
    elif isinstance(exc, DeleteWaits):
        body["waitSeconds"] = exc.wait_s
        headers["retry-after"] = str(exc.wait_s)
    elif isinstance(exc, BlobRefused):
        body["offset"] = exc.offset
    if "problems" not in body and status in (400, 422):
        body["problems"] = [Problem(path="", message=exc.message, hint=exc.hint)]
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        media_type="application/problem+json",
        headers={"cache-control": "no-store", **headers},
    )


def unexpected(request: Request, exc: Exception) -> Response:
    """A defect: logged with its traceback, answered without one."""
    log.error("request.failed", path=request.url.path, exc_info=exc)
    return problem(
        RequestInvalid(
            "the manager failed to answer this request",
            status=500,
            hint="see the manager's log",
        ),
        instance=request.url.path,
    )
