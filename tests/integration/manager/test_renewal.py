"""Certificates of the line: a host's, also long expired, and the manager's own while it runs."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import httpx2
import pytest
from anyio.streams.tls import TLSAttribute
from cryptography import x509

from skerry.lib import pki
from skerry.lib.clock import SystemClock
from skerry.lib.files import DiskRoot
from skerry.manager.app import CERTIFICATE_EVERY_S, ServingInfo, serve
from skerry.manager.keys import SERVER_CERTIFICATE
from skerry.manager.settings import Settings
from skerry.wire import messages

from .conftest import Manager, path_of

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


async def test_an_expired_host_certificate_renews_with_its_key(manager: Manager) -> None:
    device = await manager.ready_host("till-1")
    manager.clock.advance(timedelta(days=400).total_seconds())
    request = messages.RenewRequest(public_key=pki.public_pem(device.identity.public_key()))

    answer = await device.post(messages.RENEW_PATH, request, host=device.uid)

    assert answer.status_code == 200, answer.text
    fresh = pki.load_certificate(messages.decode(answer.content, messages.RenewAnswer).certificate)
    assert fresh.not_valid_after_utc > manager.clock.now() + timedelta(days=80)
    # The administrator's own access has ended meanwhile.
    host = await manager.centre.store.get("Host", "default", "till-1")
    assert host.status.fingerprint == device.fingerprint
    assert host.status.certificate_expires_at == fresh.not_valid_after_utc
    events = await manager.centre.store.events()
    assert "CertificateRenewed" in {item.event.reason for item in events}


async def test_another_key_cannot_renew_and_a_revoked_host_is_refused(manager: Manager) -> None:
    device = await manager.ready_host("till-1")
    other = manager.device("till-2")
    request = messages.RenewRequest(public_key=pki.public_pem(other.identity.public_key()))

    forged = await other.post(messages.RENEW_PATH, request, host=device.uid)
    await manager.admin.post(f"{path_of('hosts', 'till-1')}/revoke")
    revoked = await device.post(messages.RENEW_PATH, request, host=device.uid)

    assert (forged.status_code, forged.json()["reason"]) == (401, "SignatureInvalid")
    assert (revoked.status_code, revoked.json()["reason"]) == (403, "Revoked")


class LeapingClock(SystemClock):
    """The computer's time plus a leap; the long pauses of the manager end when it leaps."""

    def __init__(self) -> None:
        self.leap = timedelta()
        self.leapt = anyio.Event()

    def now(self) -> datetime:
        return super().now() + self.leap

    async def sleep(self, seconds: float) -> None:
        if seconds < CERTIFICATE_EVERY_S:
            await super().sleep(seconds)
            return
        await self.leapt.wait()
        self.leapt = anyio.Event()


@asynccontextmanager
async def serving(settings: Settings, clock: LeapingClock) -> AsyncIterator[ServingInfo]:
    found: list[ServingInfo] = []
    started = anyio.Event()

    def ready(info: ServingInfo) -> None:
        found.append(info)
        started.set()

    async with anyio.create_task_group() as tg:
        tg.start_soon(lambda: serve(settings, ready=ready, clock=clock))
        with anyio.fail_after(30):
            await started.wait()
        yield found[0]
        tg.cancel_scope.cancel()


async def test_a_manager_that_never_restarts_renews_its_own_certificate(tmp_path: Path) -> None:
    clock = LeapingClock()
    settings = Settings(data=str(tmp_path / "manager"), port=0)
    async with serving(settings, clock) as info:
        context = ssl.create_default_context(cafile=info.ca_file)
        before = await _shown(info.url, context)

        clock.leap = timedelta(days=340)
        clock.leapt.set()
        with anyio.fail_after(10):
            while (after := await _shown(info.url, context)) == before:  # noqa: ASYNC110
                await anyio.sleep(0.05)

    assert after.not_valid_after_utc - before.not_valid_after_utc > timedelta(days=300)
    kept = pki.load_certificate(DiskRoot(settings.data).read(SERVER_CERTIFICATE))
    assert kept == after


async def _shown(url: str, context: ssl.SSLContext) -> x509.Certificate:
    """The certificate of a fresh connection. Its begin lies ahead after a leap, so it is only
    compared with the roots by signature."""
    address = httpx2.URL(url)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    stream = await anyio.connect_tcp(address.host, address.port or 443, ssl_context=context)
    async with stream:
        der = stream.extra(TLSAttribute.peer_certificate_binary)
    certificate = x509.load_der_x509_certificate(der)
    assert certificate.not_valid_after_utc > datetime.now(UTC)
    return certificate
