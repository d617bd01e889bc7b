"""From site data to a registered host, with nobody logged in.

At every start `apply` turns site data into network, time and host name. Until the host is
registered, `first_boot` looks for site data again and again: a stick that is put in now counts now.
Volatile secrets go to /run only. The kept ones are removed from the disk with the registration.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
import httpx2
import msgspec
import structlog

from skerry.agent import paths, register, sitesources
from skerry.agent.causes import ChannelFailed, cause_of
from skerry.agent.identity import Identity, NotRegistered, load_identity
from skerry.agent.mounting import Mounts
from skerry.agent.sitesources import SiteFound
from skerry.client.trust import AuthorityUnknown, fingerprints, offered, same_fingerprint
from skerry.lib.clock import Clock
from skerry.lib.errors import SkerryError
from skerry.lib.files import FileMissing, Root, text_of
from skerry.lib.proc import Runner
from skerry.model.meta import Condition, Record
from skerry.plan import sitenetwork
from skerry.plan.sitedata import SiteData, Source

log = structlog.get_logger("skerry.agent.firstboot")

_HOST_NAME = f"{paths.STATE}/os/hostname"
_LOOK_S = 10.0
_RETRY_MAX_S = 60.0
_CONNECT_S = 10.0
_MAX_SCRIPT = 256 * 1024
_AGENT_S = 60

# The authority that answers at an address, by way of a proxy or "".
Fetch = Callable[[str, str], Awaitable[str]]


class SiteState(Record, frozen=True, kw_only=True):
    """What the screen shows before there is a registration. Without secrets."""

    conditions: tuple[Condition, ...] = ()
    sources: tuple[str, ...] = ()
    manager: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FirstBoot:
    """The doors of both commands."""

    root: Root
    runner: Runner
    mounts: Mounts
    clock: Clock
    fetch: Fetch
    set_host_name: Callable[[str], None]
    credentials: str = ""

    async def apply(self) -> SiteFound:
        """Read site data and make this machine as it says; keep what may be kept. Does nothing
        that is done already."""
        found = await sitesources.find_site_data(
            self.root, self.runner, self.mounts, credentials=self.credentials
        )
        registered = self._identity() is not None
        changed = self._write_files(sitenetwork.files(found.data))
        if changed and self.root.exists("/run/systemd/netif"):
            await self.runner.run(["networkctl", "reload"], timeout_s=60, check=False)
        if changed and self.root.exists("/run/systemd/timesync"):
            argv = ["systemctl", "try-restart", "systemd-timesyncd.service"]
            await self.runner.run(argv, timeout_s=60, check=False)
        # The node's name is the host name at its registration, for ever.
        if found.data.host_name and not registered:
            self._name(found.data.host_name)
        self._keep(found, registered=registered)
        return found

    async def run(self) -> None:
        """Until this host is registered. Tries again by itself for ever."""
        failures = 0
        while True:
            condition: Condition | None = None
            try:
                found = await self.apply()
                condition = await self._register(found)
                self._show(found, condition)
                failures = 0
            except (SkerryError, OSError) as exc:
                failures += 1
                log.warning("first-boot.failed", message=str(exc))
                self._show_failure(exc)
            identity = self._identity()
            if identity is not None and identity.approved:
                sitesources.scrub(self.root)
                return
            pause_s = min(2.0**failures, _RETRY_MAX_S) if failures else _LOOK_S
            await self.clock.sleep(pause_s)

    # -- registration --------------------------------------------------------------------------

    async def _register(self, found: SiteFound) -> Condition | None:
        """Prepare the registration, or bring a newer secret to one that waits; what is missing."""
        data, identity = found.data, self._identity()
        if identity is not None and (identity.approved or not self._moves(identity, data)):
            if not identity.approved:
                self._renew_secrets(data)
                # Does nothing to one that runs; a start that was lost is made up for.
                await self._agent("start")
            return None
        if not data.can_register:
            return _missing(found)
        identity = await self._identify(data)
        register.prepare(
            self.root,
            identity,
            token=data.token or "",
            pairing_key=data.pairing_key or "",
            volatile=not data.keep_secrets,
        )
        # From here on it lies with the registration, which forgets it after use.
        sitesources.scrub(self.root)
        log.info("registration.prepared", manager=identity.manager)
        await self._agent("restart")
        return None

    async def _agent(self, verb: str) -> None:
        argv = ["systemctl", "--no-block", verb, "skerry-agent.service"]
        await self.runner.run(argv, timeout_s=_AGENT_S)

    @staticmethod
    def _moves(identity: Identity, data: SiteData) -> bool:
        """Whether a host that no manager knows yet was told another one."""
        known = identity.state == "new" and not identity.host_uid
        return known and data.can_register and identity.manager not in (data.manager or ())

    async def _identify(self, data: SiteData) -> Identity:
        """An identity for the first manager that can be known. Raises ChannelFailed."""
        trust, proxy = data.trust or "", data.proxy or ""
        failure: ChannelFailed | None = None
        for manager in data.manager or ():
            pem = trust
            try:
                if trust.startswith("sha256:"):
                    pem = await self._authority(manager, trust, proxy)
                elif len(data.manager or ()) > 1:
                    await self.fetch(manager, proxy)  # only to see which of them answers
            except ChannelFailed as exc:
                failure = failure or exc
                continue
            return Identity(
                manager=manager,
                authorities=(pem,),
                site=data.site or "",
                labels=data.labels or {},
                proxy=proxy,
            )
        assert failure is not None
        raise failure

    async def _authority(self, manager: str, wanted: str, proxy: str) -> str:
        """The certificate with the wanted fingerprint; nothing else of the answer is believed."""
        for pem in offered(await self.fetch(manager, proxy)):
            try:
                if same_fingerprint(fingerprints(pem)[0], wanted):
                    return f"{pem}\n"
            except AuthorityUnknown:
                continue
        raise ChannelFailed(
            f"{manager} does not have the authority that this host was told",
            reason="ManagerUntrusted",
            hint="compare the fingerprint in the site data with the one that 'skerry serve' prints",
        )

    def _renew_secrets(self, data: SiteData) -> None:
        """A secret from a new stick for a registration that waits, and a volatile one after a
        restart."""
        for secret, kept, volatile in (
            (data.token, paths.TOKEN, paths.VOLATILE_TOKEN),
            (data.pairing_key, paths.PAIRING_KEY, paths.VOLATILE_PAIRING_KEY),
        ):
            path = kept if data.keep_secrets else volatile
            if secret and text_of(self.root, path) != secret:
                self.root.write(path, secret.encode(), mode=0o600)

    # -- this machine --------------------------------------------------------------------------

    def _write_files(self, wanted: dict[str, str]) -> bool:
        changed = False
        for name in self.root.list(sitenetwork.NETWORKD):
            path = f"{sitenetwork.NETWORKD}/{name}"
            if name.startswith(sitenetwork.PREFIX) and path not in wanted:
                self.root.remove(path)
                changed = True
        for path, text in wanted.items():
            if text_of(self.root, path) != text.strip():
                self.root.write(path, text.encode())
                changed = True
        return changed

    def _name(self, name: str) -> None:
        for path in (_HOST_NAME, "/etc/hostname"):
            if text_of(self.root, path) != name:
                self.root.write(path, f"{name}\n".encode())
        if text_of(self.root, "/proc/sys/kernel/hostname") != name:
            self.set_host_name(name)

    def _keep(self, found: SiteFound, *, registered: bool) -> None:
        """Only what a stick brought has to be kept: image and command line tell it each time."""
        if not any(layer.source is Source.STICK for layer in found.layers):
            return
        data = found.data_from(Source.INSTALLED, Source.STICK)
        if registered:
            data = msgspec.structs.replace(data, keep_secrets=None)
        sitesources.keep(self.root, data)

    def _identity(self) -> Identity | None:
        try:
            return load_identity(self.root)
        except NotRegistered:
            return None

    # -- the screen ----------------------------------------------------------------------------

    def _show(self, found: SiteFound, condition: Condition | None) -> None:
        conditions = () if condition is None else (condition,)
        if found.problems:
            first = found.problems[0]
            more = f", and {len(found.problems) - 1} more" if len(found.problems) > 1 else ""
            conditions = (
                _bad("SiteDataInvalid", f"{first.path}: {first.message}{more}"),
                *conditions,
            )
        self._save(
            SiteState(
                conditions=conditions,
                sources=tuple(found.places()),
                manager=found.data.manager or (),
            )
        )

    def _show_failure(self, exc: SkerryError | OSError) -> None:
        if isinstance(exc, SkerryError):
            reason, message = exc.reason or "AgentError", exc.message
        else:
            reason, message = "HostError", str(exc)
        before = load_site_state(self.root)
        self._save(msgspec.structs.replace(before, conditions=(_bad(reason, message),)))

    def _save(self, state: SiteState) -> None:
        data = msgspec.json.encode(state)
        try:
            if not self.root.exists(paths.SITE_STATE) or self.root.read(paths.SITE_STATE) != data:
                self.root.write(paths.SITE_STATE, data)
        except (SkerryError, OSError) as exc:
            log.warning("site-state.not-written", message=str(exc))


def load_site_state(root: Root) -> SiteState:
    """What `first_boot` last said; nothing when it never ran or what it left cannot be read."""
    try:
        return msgspec.json.decode(root.read(paths.SITE_STATE), type=SiteState)
    except (FileMissing, OSError, msgspec.DecodeError):
        return SiteState()


async def fetch_authority(manager: str, proxy: str) -> str:
    """The manager's public install script, over a connection that proves nothing: what is taken
    from it must be checked by a fingerprint. Raises ChannelFailed."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    body = bytearray()
    try:
        with anyio.fail_after(4 * _CONNECT_S):
            async with (
                httpx2.AsyncClient(
                    verify=context, proxy=proxy or None, trust_env=False, timeout=_CONNECT_S
                ) as client,
                client.stream("GET", f"{manager}/install.sh") as answer,
            ):
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > _MAX_SCRIPT:
                        break
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as exc:
        raise cause_of(manager, exc, proxy="the proxy" if proxy else "") from exc
    return bytes(body[:_MAX_SCRIPT]).decode(errors="replace")


def _missing(found: SiteFound) -> Condition:
    missing = found.data.missing()
    if found.layers and len(missing) < 2:
        return _bad("SiteDataInvalid", f"{found.places()[-1]} does not say: {', '.join(missing)}")
    return _bad("SiteDataMissing", "")


def _bad(reason: str, message: str) -> Condition:
    return Condition(type="SiteData", status="False", reason=reason, message=message)
