"""Settings of one manager process. Everything has a default that works on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from skerry.lib.errors import SkerryError

# What each setting means; the reference is made from this, and a test compares the names.
MEANINGS: dict[str, str] = {
    "data": "Folder that holds everything: store, keys, blobs, first password.",
    "host": "Address to listen on.",
    "more_hosts": "Further addresses to listen on, with the same port.",
    "port": "Port to listen on.",
    "names": "DNS names and addresses in the server certificate; the first is in the install line.",
    "url": "Public address, when it is another than the first name and the port.",
    "store_url": "Database; empty for SQLite in the data folder.",
    "release_keys": "Files with public release keys; without any, a development key is made.",
    "agent_archives": "Agent archive per architecture, which hosts install.",
    "sync_interval_s": "Seconds between two syncs of a host in sync.",
    "busy_interval_s": "Seconds between two syncs of a host that works.",
    "hold_s": "Seconds for which a sync may wait for news before it is answered.",
    "quiet_after_s": "Seconds of silence after which a host is offline, at least three syncs.",
    "agent_trial_s": "Seconds that a new agent has on a host to prove itself, or it returns.",
    "os_trial_s": "Seconds that a start of a new OS image may take to prove itself, or it counts.",
    "flush_s": "Seconds between two writes of last contacts to the store.",
    "reconcile_s": "Seconds between two looks at what changed or has to happen by time.",
    "full_pass_s": "Seconds between two looks at everything, changed or not.",
    "audit_head_s": "Seconds between two signed heads of the audit chain.",
    "force_wait_s": "Seconds that a deletion has to wait for its host before it may be forced.",
    "token_hours": "Hours that a registration token lives unless it says otherwise.",
    "session_hours": "Hours that a session lives.",
    "host_certificate_days": "Days that a host's certificate is good for.",
    "enrol_per_s": "Registrations per second that are let through on average.",
    "enrol_burst": "Registrations that are let through at once.",
    "login_per_minute": "Tries to sign in per minute and address.",
    "max_waiting_hosts": "Hosts without a token that may wait for approval at a time.",
    "max_blob_bytes": "Largest content that may be uploaded, in bytes.",
}

# What `skerry serve --set` may change: numbers without an option of their own.
TUNABLE = tuple(name for name in MEANINGS if name not in (
    "data", "host", "more_hosts", "port", "names", "url", "store_url", "release_keys",
    "agent_archives",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """`data` is the folder that holds everything.

    `names` are the DNS names and addresses under which hosts and people reach this manager; they
    are in the server certificate, and the first one is in the install line unless `url` is set.
    `release_keys` are PEM files with public keys; without any, a development key is made here.
    `agent_archives` maps an architecture to the archive that hosts install. `more_hosts` are
    further addresses to listen on, with the same port.
    """

    data: str
    host: str = "127.0.0.1"
    more_hosts: tuple[str, ...] = ()
    port: int = 8443
    names: tuple[str, ...] = ("127.0.0.1", "localhost")
    url: str = ""
    store_url: str = ""
    release_keys: tuple[str, ...] = ()
    agent_archives: tuple[tuple[str, str], ...] = ()

    sync_interval_s: int = 30
    busy_interval_s: int = 5
    hold_s: int = 60
    quiet_after_s: int = 90
    agent_trial_s: int = 600
    os_trial_s: int = 900
    flush_s: float = 30.0
    reconcile_s: float = 15.0
    audit_head_s: float = 300.0
    full_pass_s: float = 300.0
    force_wait_s: int = 60
    token_hours: int = 24
    session_hours: int = 12
    host_certificate_days: int = 90
    enrol_per_s: float = 20.0
    enrol_burst: int = 200
    login_per_minute: float = 10.0
    max_waiting_hosts: int = 500
    max_blob_bytes: int = 8 * 1024**3

    def public_url(self, port: int | None = None) -> str:
        """Where hosts and people find this manager."""
        if self.url:
            return self.url.rstrip("/")
        name = self.names[0] if self.names else self.host
        shown = f"[{name}]" if ":" in name else name
        return f"https://{shown}:{port or self.port}"

    @property
    def database(self) -> str:
        """URL of the database; SQLite in the data folder by default."""
        return self.store_url or f"sqlite:///{self.data.rstrip('/')}/skerry.db"


def tuned(settings: Settings, texts: Mapping[str, str]) -> Settings:
    """The settings with some numbers changed. Raises SkerryError for what is no such setting."""
    kinds: dict[str, Any] = {
        item.name: type(item.default) for item in fields(Settings) if item.name in TUNABLE
    }
    found: dict[str, Any] = {}
    for name, text in texts.items():
        if name not in kinds:
            raise SettingInvalid(
                f"there is no setting {name!r}", hint=f"settings: {', '.join(TUNABLE)}"
            )
        try:
            value = kinds[name](text)
        except ValueError as exc:
            raise SettingInvalid(
                f"setting {name} is {text!r}, which is no number",
                hint=f"write a number: {MEANINGS[name]}",
            ) from exc
        if not 0 < value < float("inf"):
            raise SettingInvalid(f"setting {name} is {text}", hint="write a number above zero")
        found[name] = value
    return replace(settings, **found)


class SettingInvalid(SkerryError):
    """A setting has no such name or value."""

    exit_code = 2
