"""What tty1 shows, as text: who this machine is, how it is, one cause, one next action, and a QR
code for the person who stands before it with a phone.

Pure: facts and a size in, lines out. Nothing that comes from outside reaches the terminal but as
printable characters.
"""

from __future__ import annotations

import textwrap
import unicodedata
from dataclasses import dataclass
from urllib.parse import urlencode

import msgspec
import segno

from skerry.agent.firstboot import SiteState
from skerry.agent.show import cause_of, state_text
from skerry.agent.sync import LocalStatus
from skerry.model.meta import Condition
from skerry.model.reasons import Cause, Severity, why

RESET = "\x1b[0m"
_HEAD = "\x1b[0;7m"
_CODE = "\x1b[0;30;47m"
_TONES = {
    Severity.ERROR.value: "\x1b[0;1;31m",
    Severity.WAITING.value: "\x1b[0;1;33m",
}
_STRONG = "\x1b[0;1m"

# Four light modules around the code are the standard's; two are enough for phones and save space.
_QUIET = 2
_MIN_TEXT = 30
# On a wide screen the code stays near the text that speaks of it.
_MAX_TEXT = 60
_MIN_COLUMNS, _MIN_ROWS = 20, 5
_FINGERPRINT = 16
_MARKS = ("Mn", "Me")
_DEAD = Condition(
    type="Agent",
    status="False",
    reason="AgentError",
    message="The agent does not run; systemd starts it again. The lines above are its last words.",
)
_STARTING = Condition(type="Agent", status="False", reason="Starting")


@dataclass(frozen=True, slots=True)
class ScreenFacts:
    """Everything that is shown. `status` is None before the agent said anything; `service` is
    systemd's word for the agent's unit ("active", "failed"), empty when unknown."""

    host_name: str = ""
    system: str = ""
    addresses: tuple[str, ...] = ()
    fingerprint: str = ""
    status: LocalStatus | None = None
    site: SiteState = SiteState()
    service: str = ""


def render(facts: ScreenFacts, *, columns: int = 80, rows: int = 25) -> tuple[str, ...]:
    """Exactly `rows` lines of `columns` signs, so that nothing has to be cleared; attributes are
    reset at the end of each."""
    columns, rows = max(columns, _MIN_COLUMNS), max(rows, _MIN_ROWS)
    code = _code(facts, columns=columns, rows=rows - 1)
    width = min(columns - len(code[0]) - 1, _MAX_TEXT) if code else columns
    body = _text(facts, width=width, link=not code)[: rows - 1]
    lines = [f"{_HEAD}{_head(facts, columns)}{RESET}"]
    for number in range(rows - 1):
        style, text = body[number] if number < len(body) else ("", "")
        line = f"{style}{text}{RESET}" if style else text
        shown = number < len(code)
        line += " " * ((width if shown else columns) - len(text))
        if shown:
            line += f" {_CODE}{code[number]}{RESET}"
            line += " " * (columns - width - 1 - len(code[number]))
        lines.append(line)
    return tuple(lines)


def registration_address(status: LocalStatus) -> str:
    """The manager's page with host, fingerprint and code filled in; empty when nobody waits."""
    if status.identity_state != "pending" or not status.registration_code or not status.manager:
        return ""
    asked = {"code": status.registration_code, "fingerprint": status.fingerprint[:_FINGERPRINT]}
    if status.host_name:
        asked["host"] = status.host_name
    # The manager's address was typed by a person or came from a stick.
    return clean(f"{status.manager}/register?{urlencode(asked)}")


def clean(text: str, limit: int = 400) -> str:
    """Text without anything that a terminal would obey."""
    return " ".join("".join(map(_plain, text[: 2 * limit])).split())[:limit]


def _plain(char: str) -> str:
    """Signs of double or no width would push the code out of its place."""
    if unicodedata.east_asian_width(char) in ("W", "F") or unicodedata.category(char) in _MARKS:
        return "?"
    return char if char.isprintable() else " "


def _head(facts: ScreenFacts, columns: int) -> str:
    name = clean(_host_name(facts)) or "no name yet"
    system = clean(facts.system)
    head = f" skerry  {name}"
    if len(head) + len(system) + 3 <= columns:
        head = f"{head:<{columns - len(system) - 1}}{system} "
    return f"{head[:columns]:<{columns}}"


def _host_name(facts: ScreenFacts) -> str:
    return (facts.status.host_name if facts.status else "") or facts.host_name


def _text(facts: ScreenFacts, *, width: int, link: bool) -> list[tuple[str, str]]:
    """Styled lines of the left part."""
    rows = _rows(facts)
    column = max(len(name) for name, _ in rows) + 2
    lines: list[tuple[str, str]] = [("", "")]
    for name, value in rows:
        parts = textwrap.wrap(clean(value), max(width - column - 1, 8), max_lines=3) or ["-"]
        lines += [("", f" {name:<{column}}{parts[0]}"[:width])]
        lines += [("", f" {'':<{column}}{part}"[:width]) for part in parts[1:]]
    lines.append(("", ""))
    lines += _cause_lines(_cause(facts), width)
    address = registration_address(facts.status) if facts.status else ""
    if link and address:
        lines += [("", ""), ("", " approve at")]
        lines += [
            ("", f" {address[at : at + width - 1]}") for at in range(0, len(address), width - 1)
        ]
    elif address:
        lines += [("", ""), *_wrapped("Scan the code to approve this host.", width)]
    return lines


def _rows(facts: ScreenFacts) -> list[tuple[str, str]]:
    status = facts.status
    manager = (status.manager if status else "") or ", ".join(facts.site.manager)
    fingerprint = (status.fingerprint if status else "") or facts.fingerprint
    rows = [
        ("host", _host_name(facts)),
        ("id", fingerprint[:_FINGERPRINT]),
        ("address", ", ".join(facts.addresses[:4])),
        ("manager", manager or "none yet"),
        ("state", state_text(status) if status else "not registered"),
    ]
    if status is not None and status.identity_state == "pending" and status.registration_code:
        rows.append(("code", status.registration_code))
    if _dead(facts):
        rows.append(("agent", "not running"))
    elif status is not None and status.report is not None and status.report.agent.on_trial:
        rows.append(("agent", f"{status.report.agent_version}, on trial"))
    report = status.report if status is not None else None
    if report is not None and report.kubernetes.cluster:
        release = report.kubernetes.release
        rows.append(("cluster", f"{report.kubernetes.cluster}  {release}".strip()))
    if report is not None and report.progress is not None:
        done = report.progress
        rows.append(("doing", f"{done.operation}: {done.step} ({done.index + 1} of {done.total})"))
    return rows


def _cause(facts: ScreenFacts) -> Cause:
    """The agent's cause; before it has said anything, what site data lacks."""
    if facts.status is not None:
        dead = (_DEAD,) if _dead(facts) else ()
        return cause_of(
            msgspec.structs.replace(facts.status, conditions=(*dead, *facts.status.conditions))
        )
    return why(facts.site.conditions or (_STARTING,), {"host": facts.host_name})


def _dead(facts: ScreenFacts) -> bool:
    return facts.service not in ("", "active", "activating", "reloading")


def _cause_lines(cause: Cause, width: int) -> list[tuple[str, str]]:
    lines = _wrapped(cause.title, width, style=_TONES.get(cause.severity, _STRONG))
    if cause.message:
        lines += _wrapped(cause.message, width)
    if cause.next_action:
        lines += _wrapped(f"next: {cause.next_action}", width)
    return lines


def _wrapped(text: str, width: int, *, style: str = "") -> list[tuple[str, str]]:
    parts = textwrap.wrap(clean(text), max(width - 2, 8), max_lines=8, placeholder=" ...")
    return [(style, f" {part}"[:width]) for part in parts]


def _code(facts: ScreenFacts, *, columns: int, rows: int) -> list[str]:
    """The code's lines, two modules each; none when it has no place beside the text."""
    address = registration_address(facts.status) if facts.status else ""
    if not address:
        return []
    # The host's name is a comfort, the code alone is enough to find it.
    for text in (address, address.split("&host=")[0], address.split("&fingerprint=")[0]):
        try:
            made = segno.make_qr(text, error="l", boost_error=False)
        except segno.DataOverflowError:
            continue
        side = made.symbol_size(border=_QUIET)[0]
        if side + 1 + _MIN_TEXT <= columns and (side + 1) // 2 <= rows:
            return half_blocks(
                [[bool(dark) for dark in row] for row in made.matrix_iter(border=_QUIET)]
            )
    return []


def half_blocks(matrix: list[list[bool]]) -> list[str]:
    """Two rows of modules as one of text; dark ones are drawn, on a light ground."""
    signs = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
    if len(matrix) % 2:
        matrix = [*matrix, [False] * len(matrix[0])]
    return [
        "".join(signs[pair] for pair in zip(upper, lower, strict=True))
        for upper, lower in zip(matrix[::2], matrix[1::2], strict=True)
    ]
