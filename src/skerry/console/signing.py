"""Sign-in, and the theme: what works before anybody is known.

The form before sign-in carries a token too, bound to a cookie of this browser, so that no other
site can sign somebody in as somebody else.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from skerry.console import render
from skerry.console.door import (
    SEED_COOKIE,
    SESSION_COOKIE,
    THEME_COOKIE,
    THEMES,
    Door,
    FormRefused,
    address_of,
    back,
    local_path,
    new_seed,
    set_session,
)
from skerry.lib.errors import SkerryError
from skerry.manager.auth import accounts
from skerry.manager.channel.routes import Throttle
from skerry.manager.services.centre import NotSignedIn


class Signing:
    """The routes over one door."""

    def __init__(self, door: Door) -> None:
        self._door = door
        settings = door.centre.settings
        self._tries = Throttle(door.centre.clock, settings.login_per_minute / 60, 10)

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/sign-in", self.page, methods=["GET"]),
            Route("/sign-in", self.sign_in, methods=["POST"]),
            Route("/theme", self.theme, methods=["POST"]),
        ]

    async def page(self, request: Request) -> Response:
        """The form; who is signed in already goes on."""
        try:
            await self._door.visit(request)
        except NotSignedIn:
            return self._form(request)
        return back(request.query_params.get("next", "/"))

    async def sign_in(self, request: Request) -> Response:
        """A new session, or the form again with the reason."""
        seed = request.cookies.get(SEED_COOKIE, "")
        centre = self._door.centre
        user = ""
        try:
            form = await self._door.form(request, seed)
            user = form.get("user", "").strip()
            if not seed:
                raise FormRefused("cookies are needed to sign in")
            if not self._tries.allows(address_of(request)):
                raise FormRefused("too many tries from this address; wait a minute", status=429)
            key, _ = await accounts.sign_in(
                centre.store,
                centre.root,
                user,
                form.get("password", ""),
                now=centre.clock.now(),
                hours=centre.settings.session_hours,
                source=address_of(request),
            )
        except accounts.SignInFailed as exc:
            return self._form(request, exc, user=user, status=401)
        except SkerryError as exc:
            return self._form(request, exc, user=user, status=getattr(exc, "status", 400))
        response = back(request.query_params.get("next", "/"))
        set_session(response, key, seconds=centre.settings.session_hours * 3600)
        response.delete_cookie(SEED_COOKIE, path="/", secure=True, httponly=True, samesite="lax")
        return response

    async def theme(self, request: Request) -> Response:
        """Light, dark, or what the system says; remembered in a cookie."""
        key = request.cookies.get(SESSION_COOKIE) or request.cookies.get(SEED_COOKIE, "")
        try:
            form = await self._door.form(request, key)
        except SkerryError as exc:
            return await self._door.refusal(request, exc, None)
        response = back(form.get("next", "/"))
        if form.get("theme") in THEMES:
            response.set_cookie(
                THEME_COOKIE,
                form["theme"],
                max_age=31536000,
                path="/",
                secure=True,
                httponly=True,
                samesite="lax",
            )
        else:
            response.delete_cookie(THEME_COOKIE, path="/", secure=True, samesite="lax")
        return response

    def _form(
        self,
        request: Request,
        error: SkerryError | None = None,
        *,
        user: str = "",
        status: int = 200,
    ) -> Response:
        seed = request.cookies.get(SEED_COOKIE, "") or new_seed()
        root = self._door.centre.root
        values = {
            **self._door.bare(request),
            "csrf": self._door.token(seed),
            "error": error,
            "user": user,
            "next": local_path(request.query_params.get("next", "/")),
            "first": root.exists(accounts.FIRST_PASSWORD),
        }
        response = render.page("sign-in.html", values, status=status)
        if request.cookies.get(SEED_COOKIE, "") != seed:
            response.set_cookie(
                SEED_COOKIE, seed, path="/", secure=True, httponly=True, samesite="lax"
            )
        return response
