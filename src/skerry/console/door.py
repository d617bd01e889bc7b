"""Who visits, and whether a form is theirs: sessions by cookie, forms by token, refusals as pages.

Every page and action passes through `Door.open`, so no page can forget to ask who is there. Whether
they may do it is asked by the services themselves.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlsplit

import structlog
from starlette.datastructures import FormData
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from skerry.console import render
from skerry.console.inside import Conflict, NotFound, Query
from skerry.lib.errors import SkerryError
from skerry.manager.auth.accounts import find_principal
from skerry.manager.auth.decide import Principal, allowed, readable_projects
from skerry.manager.services import objects
from skerry.manager.services.centre import Caller, Centre, NotPermitted, NotSignedIn
from skerry.manager.services.objects import DeleteWaits
from skerry.model.problems import DocumentInvalid

log = structlog.get_logger("skerry.console")

SESSION_COOKIE = "__Host-skerry_session"
SEED_COOKIE = "__Host-skerry_seed"
THEME_COOKIE = "skerry_theme"
THEMES = ("light", "dark")
MAX_FORM_FIELDS = 200
MAX_FORM_BYTES = 2 * 1024 * 1024

_STATUS: tuple[tuple[type[SkerryError], int], ...] = (
    (NotPermitted, 403),
    (NotFound, 404),
    (DocumentInvalid, 422),
    (DeleteWaits, 409),
    (Conflict, 409),
)


class FormRefused(SkerryError):
    """A form did not come from a page of this console."""

    def __init__(self, message: str, *, status: int = 403) -> None:
        super().__init__(
            message, hint="go back, reload the page and send the form again", reason="FormRefused"
        )
        self.status = status


@dataclass(frozen=True, slots=True)
class Visit:
    """A signed-in request: what a page needs to know of it."""

    door: Door
    request: Request
    caller: Caller
    key: str
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def centre(self) -> Centre:
        return self.door.centre

    async def show(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """A page inside the console's frame."""
        shell = await self.door.shell(self)
        return render.page(template, {**shell, **values}, status=status)

    def may(self, verb: str, kind: str, project: str = "") -> bool:
        """Whether to offer something. The services decide again when it is done."""
        return allowed(self.caller.principal, verb, kind, project)

    @property
    def params(self) -> dict[str, str]:
        return dict(self.request.query_params)

    @property
    def place(self) -> tuple[str, str]:
        """(project, name) of the address."""
        return self.request.path_params["project"], self.request.path_params["name"]

    def projects(self, kind: str) -> tuple[str, ...] | None:
        """Projects to choose from; None for everything."""
        return readable_projects(self.caller.principal, "list", kind)

    def project_for(self, kind: str) -> str | None:
        """The project that a list shows. Raises NotPermitted without any."""
        return chosen_project(self.caller, kind, self.request.query_params.get("project", ""))


Handler = Callable[[Visit], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]


def chosen_project(caller: Caller, kind: str, wanted: str) -> str | None:
    """The wanted project, else the first readable one; None is all of them."""
    projects = readable_projects(caller.principal, "list", kind)
    if wanted or projects is None:
        return wanted or None
    if not projects:
        raise NotPermitted(
            f"{caller.name} may not list {kind} in any project",
            hint="ask an administrator for a role binding",
            reason="NotPermitted",
        )
    return projects[0]


@dataclass(frozen=True, slots=True)
class Door:
    """Opens pages over one centre."""

    centre: Centre

    def open(self, handler: Handler) -> Endpoint:
        """An endpoint that asks who is there, checks forms, and shows refusals as pages."""

        async def endpoint(request: Request) -> Response:
            visit: Visit | None = None
            try:
                visit = await self.visit(request)
                if request.method == "POST":
                    form = await self.form(request, visit.key)
                    visit = replace(visit, form=form)
                return await handler(visit)
            except NotSignedIn:
                return self.to_sign_in(request)
            except SkerryError as exc:
                return await self.refusal(request, exc, visit)

        return endpoint

    async def visit(self, request: Request) -> Visit:
        """Raises NotSignedIn."""
        key = request.cookies.get(SESSION_COOKIE, "")
        principal: Principal | None = None
        if key:
            principal = await find_principal(self.centre.store, key, now=self.centre.clock.now())
        if principal is None:
            raise NotSignedIn("not signed in, or no longer", reason="NotSignedIn")
        return Visit(self, request, Caller(principal, address_of(request)), key)

    async def form(self, request: Request, key: str) -> dict[str, str]:
        """The fields of a form that this console made for this session. Raises FormRefused."""
        site = request.headers.get("sec-fetch-site", "")
        origin = request.headers.get("origin", "")
        if (origin not in ("", "null") and not _is_from(origin, request)) or site not in (
            "",
            "same-origin",
            "none",
        ):
            raise FormRefused("this form was sent from another site")
        fields = await read_form(request)
        if not same_text(fields.get("csrf", ""), self.token(key)):
            raise FormRefused("this form is too old, or not from this console")
        return fields

    def token(self, key: str) -> str:
        """What forms of one session (or of one browser before sign-in) carry."""
        text = hashlib.sha256(key.encode()).digest()
        return hmac.new(self.centre.keys.secret, b"console form\x00" + text, "sha256").hexdigest()

    def to_sign_in(self, request: Request) -> Response:
        """Redirect there, and back afterwards when it was a page."""
        path = request.url.path
        if request.method != "GET" or path == "/":
            target = "/sign-in"
        else:
            whole = f"{path}?{request.url.query}" if request.url.query else path
            target = f"/sign-in?next={quote(whole, safe='')}"
        return RedirectResponse(target, 303, headers=dict(render.HEADERS))

    async def refusal(self, request: Request, exc: SkerryError, visit: Visit | None) -> Response:
        """An expected failure as a page that says what to do."""
        status = status_of(exc)
        log.info("console.refused", path=request.url.path, status=status, reason=exc.reason)
        problems = exc.problems if isinstance(exc, DocumentInvalid) else ()
        values = {"status": status, "error": exc, "problems": problems, "title": _title(status)}
        shell = await self.shell(visit) if visit else self.bare(request)
        return render.page("error.html", {**shell, **values}, status=status)

    async def shell(self, visit: Visit) -> dict[str, Any]:
        """What the frame around every page shows."""
        return {
            **self.bare(visit.request),
            "visit": visit,
            "csrf": self.token(visit.key),
            "waiting": await waiting(visit),
            "restored": self.centre.live.restored,
            "live": "",
        }

    def bare(self, request: Request) -> dict[str, Any]:
        """The same for somebody who is not signed in."""
        theme = request.cookies.get(THEME_COOKIE, "")
        return {
            "visit": None,
            "path": request.url.path,
            "params": dict(request.query_params),
            "now": self.centre.clock.now(),
            "theme": theme if theme in THEMES else "",
            "csrf": "",
            "waiting": 0,
            "restored": None,
            "live": "",
            "manager": urlsplit(self.centre.url).netloc,
        }


async def waiting(visit: Visit) -> int:
    """How many hosts wait for approval, where the visitor may see them."""
    try:
        page = await objects.list_objects(
            visit.centre,
            visit.caller,
            Query(
                "Host",
                chosen_project(visit.caller, "Host", ""),
                fields={"spec.approval": "pending"},
                limit=1,
            ),
        )
    except NotPermitted:
        return 0
    return int(page.total)


async def read_form(request: Request) -> dict[str, str]:
    """Text fields of a form; of fields with one name the last counts. Raises FormRefused."""
    length = request.headers.get("content-length", "")
    if not length.isascii() or not length.isdigit() or int(length) > MAX_FORM_BYTES:
        raise FormRefused(f"a form has at most {MAX_FORM_BYTES} bytes", status=413)
    try:
        data: FormData = await request.form(
            max_files=0, max_fields=MAX_FORM_FIELDS, max_part_size=MAX_FORM_BYTES
        )
    except ClientDisconnect:
        raise
    except Exception as exc:  # the parser's own errors are not listed
        raise FormRefused("the form cannot be read", status=400) from exc
    return {key: value for key, value in data.items() if isinstance(value, str)}


def same_text(given: str, wanted: str) -> bool:
    """Compare in constant time, whatever characters were given."""
    return hmac.compare_digest(given.encode(errors="replace"), wanted.encode())


def _is_from(origin: str, request: Request) -> bool:
    try:
        return urlsplit(origin).netloc == request.headers.get("host", "")
    except ValueError:
        return False


def address_of(request: Request) -> str:
    """The peer's address."""
    return request.client.host if request.client else ""


def local_path(text: str) -> str:
    """A path of this console to go to, or the overview: never another site."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return "/"
    plain = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable()
    return text if plain and not parts.scheme and not parts.netloc and "\\" not in text else "/"


def back(target: str) -> Response:
    """After a form: a redirect, so that reloading does not send it again."""
    return RedirectResponse(local_path(target), 303, headers=dict(render.HEADERS))


def set_session(response: Response, key: str, *, seconds: int) -> None:
    """Put the session into a cookie that scripts and other sites cannot use."""
    response.set_cookie(
        SESSION_COOKIE, key, max_age=seconds, path="/", secure=True, httponly=True, samesite="lax"
    )


def new_seed() -> str:
    """For forms before anybody is signed in."""
    return secrets.token_urlsafe(24)


def status_of(exc: SkerryError) -> int:
    """The HTTP status of an expected failure."""
    own = getattr(exc, "status", None)
    if isinstance(own, int):
        return own
    return next((status for kind, status in _STATUS if isinstance(exc, kind)), 400)


def _title(status: int) -> str:
    return {
        403: "Not permitted",
        404: "Nothing here",
        409: "It changed meanwhile",
        413: "Too large",
        422: "Not valid",
        429: "Too many tries",
    }.get(status, "That did not work")
