"""Settings of one manager process. Everything has a default that works on one machine."""

from __future__ import annotations

from dataclasses import dataclass


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
    hold_s: int = 30
    quiet_after_s: int = 90
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
