"""A site without its manager for longer than every certificate lives, off for part of it.

Real time in small: certificates live minutes instead of a year. The registration certificate and
the manager's own are days at least, so both are replaced by ones issued long ago.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import httpx2
import msgspec
import pytest
import yaml
from cryptography import x509
from tests.lab.bench import CLUSTER, Bench, apply, host_of, in_sync, push, register, until

from skerry.agent.identity import Identity
from skerry.client.api import Api
from skerry.lab import onboarding
from skerry.lib import pki
from skerry.lib.clock import SystemClock
from skerry.lib.files import DiskRoot
from skerry.manager.keys import SERVER_CERTIFICATE, SERVER_KEY, open_keys

pytestmark = [
    pytest.mark.lab,
    pytest.mark.long,
    pytest.mark.anyio,
    pytest.mark.timeout(3600),
]

VERSION = "1.36.3"
LIFE = timedelta(minutes=5)
SNAPSHOTS_KEPT = 3
SHORT_LIVES = {
    # Six hours in small, too.
    "etcd": {"snapshotEvery": "60s", "keep": SNAPSHOTS_KEPT},
    "cluster": {
        "config": {
            "certificateValidityPeriod": f"{LIFE.seconds}s",
            # The kubelet's own certificate comes from the controller manager's signer.
            "controllerManager": {"extraArgs": {"cluster-signing-duration": f"{LIFE.seconds}s"}},
        }
    },
}
# What docs/explanation/absence.md promises for a renewal.
API_AWAY_S, PAGE_AWAY_S = 60.0, 3.0

# Files below the host's disk and the one below its kubelet's state.
_FILES = (
    *(f"pki/{name}.crt" for name in ("apiserver", "apiserver-kubelet-client")),
    *(f"pki/{name}.crt" for name in ("apiserver-etcd-client", "front-proxy-client")),
    *(f"pki/etcd/{name}.crt" for name in ("server", "peer", "healthcheck-client")),
    *(f"{name}.conf" for name in ("admin", "super-admin", "controller-manager", "scheduler")),
)
_KUBELET = "kubelet/pki/kubelet-client-current.pem"


@dataclass
class Watch:
    """Somebody who asks again and again from outside; how long each was away at most."""

    away_s: dict[str, float] = field(default_factory=dict)

    async def follow(self, name: str, url: str) -> None:
        last = time.monotonic()
        async with httpx2.AsyncClient(verify=False, trust_env=False, timeout=1) as http:
            while True:
                with contextlib.suppress(httpx2.HTTPError):
                    (await http.get(url)).raise_for_status()
                    now = time.monotonic()
                    self.away_s[name] = max(self.away_s.get(name, 0.0), now - last)
                    last = now
                await anyio.sleep(0.1)


@asynccontextmanager
async def watching(bench: Bench) -> AsyncIterator[Watch]:
    watch = Watch()
    async with anyio.create_task_group() as tg:
        tg.start_soon(watch.follow, "API", f"https://{bench.host.address}:6443/readyz")
        tg.start_soon(watch.follow, "page", f"http://{bench.host.address}:30080/")
        yield watch
        tg.cancel_scope.cancel()


async def test_a_site_outlives_its_certificates_alone(bench: Bench) -> None:
    chapter = bench.chapter
    async with bench.manager() as running, chapter("a cluster whose certificates live minutes"):
        await push(running, VERSION)
        await register(bench, running.api)
        await apply(
            running.api,
            bench.profile("1.0.0", VERSION, SHORT_LIVES),
            bench.cluster("1.0.0", "alone"),
        )
        await onboarding.wait_for_cluster(running.api, CLUSTER, limit_s=300)
        await until("the page", lambda: bench.says("alone"), limit_s=30)
    # From here on there is no manager.
    async with chapter("certificates are renewed in time, twice"):
        await certificates_are_renewed_in_time(bench)
    async with chapter("off across the expiry of everything"):
        await off_across_the_expiry_of_everything(bench)
    async with chapter("back to Ready without a manager"):
        await back_to_ready(bench)
    await the_registration_is_as_old_as_a_long_absence(bench)
    async with bench.manager() as running, chapter("the manager returns and all is in sync"):
        await all_is_in_sync(bench, running.api)


async def certificates_are_renewed_in_time(bench: Bench) -> None:
    async with watching(bench) as watch:
        for _ in range(2):
            before = await certificates(bench)

            async def renewed(old: dict[str, x509.Certificate] = before) -> bool:
                now = datetime.now(UTC)
                found = await certificates(bench)
                assert all(item.not_valid_after_utc > now for item in found.values())
                return all(
                    found[name].not_valid_after_utc > item.not_valid_after_utc
                    for name, item in old.items()
                )

            await until("the renewal", renewed, limit_s=LIFE.total_seconds())
            await until("the API", lambda: ready(bench), limit_s=60)
        # One more round of questions, so that a last gap is counted too.
        await anyio.sleep(2)
    for name, seconds in watch.away_s.items():
        bench.note(f"{name} away at most, two renewals", seconds)
    assert watch.away_s["API"] <= API_AWAY_S
    assert watch.away_s["page"] <= PAGE_AWAY_S
    await bench.nothing_written_was_lost()
    await snapshots_are_made_and_pruned(bench)
    status = await bench.status()
    assert "Manager cannot be reached" in status, status


async def snapshots_are_made_and_pruned(bench: Bench) -> None:
    async def snapshots() -> list[str]:
        return (await bench.sh("ls -t /var/lib/skerry/snapshots/*/etcd.db")).split()

    async def as_many_as_are_kept() -> bool:
        return len(await snapshots()) == SNAPSHOTS_KEPT

    await until("enough snapshots", as_many_as_are_kept, limit_s=180)
    saved = await snapshots()
    age_s = await bench.sh(f"echo $(($(date +%s) - $(stat -c %Y {saved[0]})))")
    assert int(age_s) < 180
    for place in saved:
        told = await bench.sh(f"{_ETCDUTL} snapshot status {place} --write-out=json")
        assert json.loads(told)["totalKey"] > 100


async def off_across_the_expiry_of_everything(bench: Bench) -> None:
    await bench.host.stop()
    found = await certificates(bench)
    last = max(item.not_valid_after_utc for item in found.values())
    await anyio.sleep((last - datetime.now(UTC)).total_seconds() + 5)
    bench.note("certificates that expired while it was off", len(found))


async def back_to_ready(bench: Bench) -> None:
    written = len(await anyio.to_thread.run_sync(_log_of_the_writer, bench))
    await bench.host.start()
    began = time.monotonic()

    await until("the node", lambda: ready(bench), limit_s=240)
    bench.note("from boot to Ready", time.monotonic() - began)
    await until("the page", lambda: bench.says("alone"), limit_s=60)

    async def writes_on() -> bool:
        return await bench.nothing_written_was_lost() > written

    await until("the writer", writes_on, limit_s=60)
    now = datetime.now(UTC)
    assert all(item.not_valid_after_utc > now for item in (await certificates(bench)).values())
    # The kubelet's way back to the API server is a certificate too.
    assert "1" in await bench.kubectl(
        "exec", "deploy/writer", "--", "/bin/busybox", "head", "-n1", "/data/log"
    )


def _log_of_the_writer(bench: Bench) -> list[str]:
    return (bench.host.machine_dir / "upper/var/lib/writer/log").read_text().split()


async def the_registration_is_as_old_as_a_long_absence(bench: Bench) -> None:
    """Both certificates of the line as they would be after more than a year apart."""
    long_ago = datetime.now(UTC) - timedelta(days=400)
    root = DiskRoot(bench.settings.data)
    authority = open_keys(root, SystemClock()).authority
    server = pki.issue_server_certificate(
        authority,
        pki.load_host_key(root.read(SERVER_KEY)).public_key(),
        names=list(bench.settings.names),
        now=long_ago,
    )
    root.write(SERVER_CERTIFICATE, pki.certificate_pem(server).encode())

    await bench.host.run(["systemctl", "stop", "skerry-agent"], timeout_s=60)
    identity = await _identity(bench)
    old = pki.issue_host_certificate(
        authority,
        pki.load_certificate(identity.certificate).public_key(),  # type: ignore[arg-type]  # ES256
        host_uid=identity.host_uid,
        now=long_ago,
    )
    aged = msgspec.structs.replace(identity, certificate=pki.certificate_pem(old))
    place = bench.folder / "identity.json"
    place.touch(mode=0o600)
    place.write_bytes(msgspec.json.encode(aged))
    await bench.host.copy_in(place, _IDENTITY)
    await bench.host.run(["systemctl", "start", "skerry-agent"], timeout_s=60)


async def all_is_in_sync(bench: Bench, api: Api) -> None:
    now = datetime.now(UTC)

    async def renewed() -> bool:
        return pki.load_certificate((await _identity(bench)).certificate).not_valid_after_utc > now

    await until("the registration's renewal", renewed, limit_s=120)
    await until("the host in sync", lambda: in_sync(api, VERSION), limit_s=120)
    await onboarding.wait_for_cluster(api, CLUSTER, limit_s=120)

    server = pki.load_certificate(DiskRoot(bench.settings.data).read(SERVER_CERTIFICATE))
    assert server.not_valid_after_utc > now + timedelta(days=300)
    ends = (await host_of(api))["status"]["certificateExpiresAt"]
    assert datetime.fromisoformat(ends) > now + timedelta(days=80)
    assert "Nothing is wrong" in await bench.status()
    # The next change arrives as ever.
    await apply(api, bench.cluster("1.0.0", "together again"))
    await until("the new page", lambda: bench.says("together again"), limit_s=150)


async def ready(bench: Bench) -> bool:
    """Whether the API answers and the node is Ready now, not in some old record."""
    text = await bench.kubectl("get", "node", "-o", "json")
    node = json.loads(text)["items"][0]
    found = next(item for item in node["status"]["conditions"] if item["type"] == "Ready")
    lease = await bench.kubectl(
        *("--namespace", "kube-node-lease", "get", "lease", node["metadata"]["name"]),
        *("-o", "jsonpath={.spec.renewTime}"),
    )
    age = datetime.now(UTC) - datetime.fromisoformat(lease)
    return found["status"] == "True" and age < timedelta(seconds=30)


async def certificates(bench: Bench) -> dict[str, x509.Certificate]:
    """Every certificate of the cluster that lives minutes, by its place; read from this side of
    the host's disk, so also while it is off."""
    found: dict[str, x509.Certificate] = {}

    async def read() -> bool:
        # The kubelet's is away for a moment while it is renewed.
        with contextlib.suppress(FileNotFoundError):
            found.update(_certificates(bench.host.machine_dir))
        return bool(found)

    await until("all certificates", read, limit_s=30)
    return found


def _certificates(machine: Path) -> dict[str, x509.Certificate]:
    found: dict[str, x509.Certificate] = {}
    for name in _FILES:
        data = (machine / "upper/etc/kubernetes" / name).read_bytes()
        if name.endswith(".conf"):
            user = yaml.safe_load(data)["users"][0]["user"]
            data = base64.b64decode(user["client-certificate-data"])
        found[name] = x509.load_pem_x509_certificate(data)
    link = machine / "state" / _KUBELET
    # The link is absolute, as the host sees it.
    current = link.with_name(Path(os.readlink(link)).name)
    found[_KUBELET] = x509.load_pem_x509_certificate(current.read_bytes())
    return found


_ETCDUTL = f"/var/lib/skerry/releases/kubernetes/{VERSION}/bin/etcdutl"
_IDENTITY = "/var/lib/skerry/identity/identity.json"


async def _identity(bench: Bench) -> Identity:
    return msgspec.json.decode(await bench.sh(f"cat {_IDENTITY}"), type=Identity)
