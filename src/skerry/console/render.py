"""Templates, and the headers that every page carries.

The content policy allows no inline script and no inline style; templates have neither, and a test
looks for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

import jinja2
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, Response

from skerry import __version__
from skerry.console import states
from skerry.console.labels import labels_text
from skerry.model.reasons import REASONS

STATIC_FILES = {
    "skerry.css": "text/css; charset=utf-8",
    "skerry.js": "text/javascript; charset=utf-8",
    "mark.svg": "image/svg+xml",
    "contours.svg": "image/svg+xml",
}

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def page(
    template: str, values: Mapping[str, Any], *, status: int = 200, stored: bool = False
) -> Response:
    """A rendered page; `stored` lets the browser keep it (only for pages without a person)."""
    body = environment().get_template(template).render(**values)
    headers = dict(HEADERS)
    if not stored:
        headers["cache-control"] = "no-store"
    return HTMLResponse(body, status_code=status, headers=headers)


@cache
def static(name: str) -> tuple[bytes, str]:
    """(content, mark) of a static file; the mark is in its address, so it may be kept for ever."""
    data = files("skerry.console").joinpath("static", name).read_bytes()
    return data, hashlib.sha256(data).hexdigest()[:12]


@cache
def environment() -> jinja2.Environment:
    """The one template environment."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("skerry.console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        age=age,
        bytes=size,
        middle=middle,
        digest=digest,
        plural=plural,
        grouped=grouped,
        labels_text=labels_text,
        one=one,
    )
    made.globals.update(
        asset=asset,
        query=query,
        version=__version__,
        host_state=states.host_state,
        cluster_state=states.cluster_state,
        token_state=states.token_state,
        condition_tone=states.condition_tone,
        slot_state=states.slot_state,
        here=states.here,
        reasons_known=frozenset(REASONS),
    )
    return made


def asset(name: str) -> str:
    """Address of a static file."""
    return f"/static/{static(name)[1]}/{name}"


def query(current: Mapping[str, str], **changes: Any) -> str:
    """The query of an address with some parameters changed; empty ones are left out."""
    merged = {**current, **changes}
    kept = {key: str(value) for key, value in merged.items() if value not in (None, "")}
    return f"?{urlencode(kept)}" if kept else "?"


def age(then: datetime | None, now: datetime) -> Markup:
    """A time as its distance from now, with the exact time as title; "never" without one."""
    if then is None:
        return Markup('<span class="faint">never</span>')
    text = span((now - then).total_seconds())
    words = "now" if text == "0 s" else f"{text} ago"
    if text.startswith("-"):
        words = f"in {text[1:]}"
    exact = moment(then)
    stamp = then.astimezone(UTC).isoformat()
    return Markup('<time datetime="{}" title="{}">{}</time>').format(stamp, exact, words)


def span(seconds: float) -> str:
    """A length of time in its largest fitting unit ("3 min"); with a leading "-" when negative."""
    sign = "-" if seconds < 0 else ""
    left = abs(seconds)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if left >= length * (2 if unit == "d" else 1):
            return f"{sign}{int(left // length)} {unit}"
    return f"{sign}{int(left)} s"


def moment(then: datetime | None) -> str:
    """An exact time."""
    return then.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if then else ""


def size(count: int) -> str:
    """Bytes for people, with three digits."""
    left = float(count)
    for unit in _UNITS:
        if left < 1024 or unit == _UNITS[-1]:
            return f"{left:.0f} {unit}" if unit == "B" or left >= 100 else f"{left:.3g} {unit}"
        left /= 1024
    raise AssertionError


def middle(text: str, most: int = 32) -> Markup:
    """A long text shortened in its middle, where names differ least, with all of it as title."""
    if len(text) <= most:
        return escape(text)
    head = (most - 1) * 3 // 5
    short = f"{text[:head]}…{text[-(most - 1 - head) :]}"
    return Markup('<span title="{}">{}</span>').format(text, short)


def digest(text: str) -> Markup:
    """A digest by its first digits, with all of it as title."""
    if not text:
        return Markup('<span class="faint">none</span>')
    plain = text.removeprefix("sha256:")
    return Markup('<code class="digest" title="{}">{}</code>').format(text, plain[:12])


def one(items: Iterable[Any]) -> Any:
    """The first of them, or None."""
    return next(iter(items), None)


def grouped(text: str) -> str:
    """A fingerprint in groups of eight, so that eyes can keep their place."""
    return " ".join(text[start : start + 8] for start in range(0, len(text), 8))


def plural(count: int, one: str, many: str = "") -> str:
    """ "1 host", "1,204 hosts"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
