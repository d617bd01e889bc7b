"""Site data from text: YAML files, cloud-init's user-data, the kernel's command line.

Everything that is wrong with a text is told at once, and a text with a problem is not used at all.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from skerry.lib import yamltext
from skerry.model.problems import Problem
from skerry.plan.sitecheck import check, unknown
from skerry.plan.sitedata import MAX_SITE_BYTES, Prefer, SiteData

Read = tuple[SiteData, list[Problem]]

# Words of the command line that are skerry's but tell nothing of the site.
SYSTEM_WORDS = frozenset({"install", "recovery", "slot"})


def read_yaml(data: bytes, *, key: str = "") -> Read:
    """Site data from a file's bytes; with `key` from that field of it, other fields pass (as in
    cloud-init's user-data). Never raises."""
    if len(data) > MAX_SITE_BYTES:
        return _refused(f"is larger than {MAX_SITE_BYTES} bytes")
    try:
        raw = yamltext.load(data.decode())
    except UnicodeDecodeError:
        return _refused("is not text in UTF-8")
    except yaml.MarkedYAMLError as exc:
        place = f" in line {exc.problem_mark.line + 1}" if exc.problem_mark else ""
        return _refused(f"is not YAML: {exc.problem}{place}")
    except (yaml.YAMLError, RecursionError):
        return _refused("is not YAML")
    if key:
        raw = raw.get(key) if isinstance(raw, Mapping) else None
    return check({} if raw is None else raw)


def read_command_line(text: str) -> Read:
    """Site data from the words `skerry.*` of a kernel's command line. Never raises."""
    if len(text) > MAX_SITE_BYTES:
        return _refused(f"is larger than {MAX_SITE_BYTES} bytes")
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    raw: dict[str, Any] = {}
    problems: list[Problem] = []
    for word in words:
        if not word.startswith("skerry."):
            continue
        name, told, value = word.removeprefix("skerry.").partition("=")
        if name in SYSTEM_WORDS:
            continue
        if name not in _WORDS:
            problems.append(unknown(f"skerry.{name}"[:100], name, tuple(_WORDS)))
            continue
        try:
            _WORDS[name](raw, value if told else "yes")
        except ValueError as exc:
            problems.append(Problem(path=f"skerry.{name}", message=str(exc)))
    data, wrong = check(raw)
    problems += wrong
    return (SiteData() if problems else data), problems


def _refused(message: str) -> Read:
    return SiteData(), [Problem(path="", message=message)]


# -- the command line ---------------------------------------------------------------------------


def _plain(*keys: str, many: bool = False) -> Callable[[dict[str, Any], str], None]:
    """A word whose value stands at `keys` of the document, with commas when `many`."""

    def put(raw: dict[str, Any], value: str) -> None:
        for key in keys[:-1]:
            raw = raw.setdefault(key, {})
        raw[keys[-1]] = value.split(",") if many else value

    return put


def _flag(*keys: str) -> Callable[[dict[str, Any], str], None]:
    def put(raw: dict[str, Any], value: str) -> None:
        _plain(*keys)(raw, value)
        for key in keys[:-1]:
            raw = raw[key]
        raw[keys[-1]] = _yes(value)

    return put


def _yes(value: str) -> bool:
    if value not in ("yes", "no", "true", "false", "1", "0"):
        raise ValueError("must be yes or no")
    return value in ("yes", "true", "1")


def _label(raw: dict[str, Any], value: str) -> None:
    key, sign, text = value.partition("=")
    if not sign:
        raise ValueError("is not KEY=VALUE")
    raw.setdefault("labels", {})[key] = text


def _disk_word(raw: dict[str, Any], value: str) -> None:
    rule = raw.setdefault("install", {}).setdefault("disk", {})
    kind, sign, text = value.partition(":")
    if value in tuple(Prefer):
        rule["prefer"] = value
    elif sign and kind in ("serial", "model"):
        rule[kind] = text
    else:
        rule["path"] = value


def _wipe_word(raw: dict[str, Any], value: str) -> None:
    told: bool | list[str] = value.split(",")
    if value in ("yes", "no", "true", "false", "1", "0"):
        told = _yes(value)
    raw.setdefault("install", {})["wipe"] = told


def _nic_word(key: str, *, many: bool = False) -> Callable[[dict[str, Any], str], None]:
    def put(raw: dict[str, Any], value: str) -> None:
        nics = raw.setdefault("network", {}).setdefault("nics", [{}])
        nics[0][key] = value.split(",") if many else value

    return put


def _vlan_word(raw: dict[str, Any], value: str) -> None:
    if not (value.isascii() and value.isdigit() and len(value) < 6):
        raise ValueError("must be a number")
    _nic_word("vlan")(raw, value)
    raw["network"]["nics"][0]["vlan"] = int(value)


_WORDS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "manager": _plain("manager", many=True),
    "trust": _plain("trust"),
    "token": _plain("token"),
    "pairing-key": _plain("pairingKey"),
    "keep-secrets": _flag("keepSecrets"),
    "site": _plain("site"),
    "label": _label,
    "hostname": _plain("hostName"),
    "ntp": _plain("ntp", many=True),
    "proxy": _plain("proxy"),
    "nic": _nic_word("name"),
    "address": _nic_word("addresses", many=True),
    "gateway": _nic_word("gateway"),
    "dns": _plain("network", "dns", many=True),
    "vlan": _vlan_word,
    "disk": _disk_word,
    "disk-min": _plain("install", "disk", "minSize"),
    "wipe": _wipe_word,
    "after": _plain("install", "after"),
    "unattended": _flag("install", "unattended"),
}
