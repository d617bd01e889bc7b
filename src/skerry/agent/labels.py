"""The labels that a host brings: from its registration, its settings, a file and a script.

Nearest to the person who typed it wins: an option of `skerry-agent register`, then `labels` of the
settings, then the file, then the script. A source that fails keeps what it last gave, so that one
bad run of a script does not move a host between groups. Labels are public: never a secret, and
messages never repeat what a script printed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from skerry.agent import paths
from skerry.agent.settings import MAX_BYTES, AgentSettings, LabelFile, LabelScript, load
from skerry.lib.clock import Clock
from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskFull, FileMissing, Root
from skerry.lib.proc import CommandMissing, CommandTimedOut, Runner
from skerry.model.labels import host_labels, kind_of
from skerry.model.meta import Condition, Record
from skerry.model.problems import Problem

log = structlog.get_logger("skerry.agent.labels")

EVERY_S = 300.0
_MAX_MESSAGE = 900


class _Kept(Record, frozen=True, kw_only=True):
    """What each source last gave."""

    file: dict[str, Any] = {}
    script: dict[str, Any] = {}


class Gathered(Record, frozen=True, kw_only=True):
    """`labels` are good ones only; `note` names what was refused, or is None."""

    labels: dict[str, str] = {}
    site: str = ""
    note: Condition | None = None


class _Unreadable(Exception):
    """A source gave nothing; the text says why, without what it printed."""


@dataclass
class LabelSource:
    """Gathers a host's labels. `fixed` and `site` come from its registration."""

    root: Root
    runner: Runner
    fixed: dict[str, str]
    site: str = ""

    async def gather(self) -> Gathered:
        """Read all sources once. Never raises for what they hold."""
        settings, wrong = load(self.root)
        kept = self._kept()
        problems: list[Problem] = []
        now = _Kept(
            file=await self._ask("labelsFromFile", settings.from_file, kept.file, problems),
            script=await self._ask("labelsFromScript", settings.from_script, kept.script, problems),
        )
        labels: dict[str, str] = {}
        for name, raw in (
            ("labelsFromScript", now.script),
            ("labelsFromFile", now.file),
            ("labels", settings.labels),
            ("--label", self.fixed),
        ):
            good, refused = host_labels(name, raw)
            problems += refused
            labels |= good
        labels, refused = host_labels("labels", labels)  # the limit counts all sources together
        problems += refused
        self._keep(kept, now)
        return Gathered(labels=labels, site=self.site or settings.site, note=_note(wrong, problems))

    async def _ask(
        self,
        name: str,
        source: LabelFile | LabelScript | None,
        before: dict[str, Any],
        problems: list[Problem],
    ) -> dict[str, Any]:
        if source is None:
            return {}
        try:
            if isinstance(source, LabelFile):
                return _from_file(self.root, source)
            return await _from_script(self.runner, source)
        except _Unreadable as exc:
            problems.append(Problem(path=name, message=str(exc)))
            return before

    def _kept(self) -> _Kept:
        if not self.root.exists(paths.LABELS):
            return _Kept()
        return msgspec.json.decode(self.root.read(paths.LABELS), type=_Kept)

    def _keep(self, before: _Kept, now: _Kept) -> None:
        if now == before:
            return
        try:
            self.root.write(paths.LABELS, msgspec.json.encode(now), mode=0o600)
        except (DiskFull, OSError) as exc:
            log.warning("labels.not_kept", message=str(exc))  # they are gathered again anyway


async def follow(
    source: LabelSource,
    clock: Clock,
    before: Gathered,
    take: Callable[[Gathered], Awaitable[None]],
) -> None:
    """Gather again and again and hand over what changed. Runs until cancelled."""
    while True:
        await clock.sleep(EVERY_S)
        now = await source.gather()
        if now != before:
            before = now
            await take(now)


def _from_file(root: Root, source: LabelFile) -> dict[str, Any]:
    try:
        if root.size(source.path) > MAX_BYTES:
            raise _Unreadable(f"{source.path} is larger than {MAX_BYTES} bytes")
        text = root.read(source.path).decode()
    except FileMissing:
        raise _Unreadable(f"there is no {source.path}") from None
    except (OSError, UnicodeDecodeError):
        raise _Unreadable(f"{source.path} cannot be read as text") from None
    found: dict[str, Any] = {}
    for index, part in enumerate(text.split(source.delimiter), start=1):
        entry = part.strip()
        if not entry or entry.startswith("#"):
            continue
        key, sign, value = entry.partition(source.separator)
        if not sign:
            raise _Unreadable(f"entry {index} of {source.path} has no {source.separator!r}")
        found[key.strip()] = value.strip()
    return found


async def _from_script(runner: Runner, source: LabelScript) -> dict[str, Any]:
    try:
        result = await runner.run([source.path], timeout_s=source.timeout_s, check=False)
    except CommandTimedOut:
        raise _Unreadable(f"{source.path} did not end within {source.timeout_s:g} s") from None
    except CommandMissing:
        raise _Unreadable(f"there is no {source.path}") from None
    except (SkerryError, OSError):
        raise _Unreadable(f"{source.path} cannot be run; is it executable?") from None
    if not result.ok:
        raise _Unreadable(f"{source.path} ended with exit code {result.code}")
    if len(result.stdout) > MAX_BYTES:
        raise _Unreadable(f"{source.path} printed more than {MAX_BYTES} bytes")
    try:
        found = msgspec.json.decode(result.stdout)
    except (msgspec.DecodeError, RecursionError):
        raise _Unreadable(f"what {source.path} printed is not JSON") from None
    if not isinstance(found, dict):
        raise _Unreadable(f"{source.path} printed {kind_of(found)}, not an object")
    return {str(key): _as_text(value) for key, value in found.items()}


def _as_text(value: Any) -> Any:
    """Numbers and truth values are labels in JSON's spelling."""
    if isinstance(value, bool | int | float):
        return msgspec.json.encode(value).decode()
    return value


def _note(wrong: list[Problem], refused: list[Problem]) -> Condition | None:
    if not wrong and not refused:
        return None
    texts = [f"{paths.SETTINGS}: {_line(item)}" for item in wrong]
    texts += [_line(item) for item in refused]
    text = "; ".join(texts)
    return Condition(
        type="LabelsRead",
        status="False",
        reason="SettingsInvalid" if wrong else "LabelsInvalid",
        message=text[:_MAX_MESSAGE],
    )


def _line(problem: Problem) -> str:
    return f"{problem.path}: {problem.message}" if problem.path else problem.message


def check_settings(root: Root) -> tuple[AgentSettings, list[Problem]]:
    """The settings and all that is wrong with them, labels included; for `register`."""
    settings, problems = load(root)
    _, refused = host_labels("labels", settings.labels)
    return settings, [*problems, *refused]
