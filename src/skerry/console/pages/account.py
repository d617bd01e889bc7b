"""One's own account: who I am here, what I may do, password, sign-out."""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response

from skerry.console import render
from skerry.console.door import SESSION_COOKIE, Visit, set_session
from skerry.lib.errors import SkerryError
from skerry.manager.auth import accounts


async def page(visit: Visit) -> Response:
    """Name, roles, password, theme."""
    return await _show(visit)


async def password(visit: Visit) -> Response:
    """Change one's own password; the old one is asked for, all other sessions end."""
    centre, form = visit.centre, visit.form
    user = visit.caller.name.removeprefix("user:")
    now, hours = centre.clock.now(), centre.settings.session_hours
    try:
        if form.get("new", "") != form.get("again", ""):
            raise accounts.BadPassword("the two new passwords differ", reason="BadPassword")
        old_key, _ = await accounts.sign_in(
            centre.store,
            centre.root,
            user,
            form.get("old", ""),
            now=now,
            hours=hours,
            source=visit.caller.source,
        )
        await accounts.sign_out(centre.store, old_key, now=now)
        await accounts.set_password(
            centre.store, user, form["new"], actor=visit.caller.name, now=now
        )
        key, _ = await accounts.sign_in(
            centre.store,
            centre.root,
            user,
            form["new"],
            now=now,
            hours=hours,
            source=visit.caller.source,
        )
    except SkerryError as exc:
        return await _show(visit, error=exc, status=422)
    response = RedirectResponse("/account?changed=1", 303, headers=dict(render.HEADERS))
    set_session(response, key, seconds=hours * 3600)
    return response


async def sign_out(visit: Visit) -> Response:
    """End this session."""
    await accounts.sign_out(visit.centre.store, visit.key, now=visit.centre.clock.now())
    response = RedirectResponse("/sign-in", 303, headers=dict(render.HEADERS))
    response.delete_cookie(SESSION_COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    response.headers["clear-site-data"] = '"cache"'
    return response


async def _show(visit: Visit, *, error: SkerryError | None = None, status: int = 200) -> Response:
    return await visit.show(
        "account.html",
        status=status,
        error=error,
        grants=visit.caller.principal.grants,
        changed=bool(visit.params.get("changed")),
        least=accounts.MIN_PASSWORD_CHARS,
    )
