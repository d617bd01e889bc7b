"""Certificates of a cluster: the first to expire counts, and expired ones never hold a step up."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from skerry.agent.kube import certificates, places
from skerry.agent.kube.engine import EngineFailed
from skerry.lib import pki
from skerry.plan import steps as do

pytestmark = pytest.mark.anyio


def issue(host, *, days_left: float, life_days: float = 365) -> bytes:
    now = host.clock.now()
    begins = now + timedelta(days=days_left - life_days)
    authority = pki.new_authority("kubernetes", now=begins)
    key = ec.generate_private_key(ec.SECP256R1())
    made = pki.issue_host_certificate(
        authority, key.public_key(), host_uid="x", now=begins, days=int(life_days)
    )
    return pki.certificate_pem(made).encode()


def kubeconfig(pem: bytes) -> bytes:
    user = {"client-certificate-data": base64.b64encode(pem).decode()}
    return yaml.safe_dump({"users": [{"name": "x", "user": user}]}).encode()


def put_all(host, *, days_left: float) -> None:
    """A cluster whose certificates all end together."""
    for name in ("apiserver", "etcd/server", "front-proxy-client"):
        host.root.write(f"{places.PKI}/{name}.crt", issue(host, days_left=days_left))
    host.root.write(places.ADMIN_CONF, kubeconfig(issue(host, days_left=days_left)))
    for name in (*places.CONTROL_PLANE, "etcd"):
        manifest = {"metadata": {}, "spec": {"containers": [{"image": "x:v1.36.3"}]}}
        host.root.write(places.manifest(name), yaml.safe_dump(manifest).encode())
    host.root.link(f"{places.LINKS}/kubelet", places.program("1.36.3", "kubelet"))


async def unpack(host) -> None:
    release = host.release("1.36.3")
    await host.engine.perform(do.UnpackRelease(version="1.36.3", release=release), None)
    host.remember()


def ends(host) -> datetime:
    found = certificates.validity(host.doors)
    assert found is not None
    return found[1]


async def test_the_one_that_ends_first_counts(host) -> None:
    put_all(host, days_left=200)
    host.root.write(f"{places.PKI}/etcd/peer.crt", issue(host, days_left=90))

    assert (ends(host) - host.clock.now()).days == 90


async def test_an_embedded_certificate_of_the_kubelet_counts_like_the_others(host) -> None:
    """The kubelet does not start with an expired one, whatever it has been given since."""
    put_all(host, days_left=200)
    host.root.write(places.KUBELET_CONF, kubeconfig(issue(host, days_left=5)))
    assert (ends(host) - host.clock.now()).days == 5

    file = {"users": [{"name": "x", "user": {"client-certificate": "/var/lib/kubelet/x.pem"}}]}
    host.root.write(places.KUBELET_CONF, yaml.safe_dump(file).encode())
    assert (ends(host) - host.clock.now()).days == 200


async def test_the_kubelet_s_own_one_counts_only_when_it_cannot_renew_itself(host) -> None:
    put_all(host, days_left=200)
    current = f"{places.KUBELET}/pki/kubelet-client-current.pem"

    host.root.write(current, issue(host, days_left=20))
    assert (ends(host) - host.clock.now()).days == 200
    host.root.write(current, issue(host, days_left=-1))
    assert ends(host) < host.clock.now()


async def test_renewal_starts_everything_that_holds_a_certificate_anew(host) -> None:
    await unpack(host)
    put_all(host, days_left=20)
    old = f"{places.KUBELET}/pki/kubelet-client-2026.pem"
    host.root.write(old, b"old")
    host.root.write(places.KUBELET_CONF, b"old")
    before = {
        name: host.root.read(places.manifest(name)) for name in (*places.CONTROL_PLANE, "etcd")
    }

    await host.engine.perform(do.RenewCertificates(version="1.36.3"), host.cluster())

    kubeadm = host.doors.root.host_path(places.program("1.36.3", "kubeadm"))
    assert host.runner.called(kubeadm, "certs", "renew", "all")
    assert host.runner.called(kubeadm, "init", "phase", "kubeconfig", "kubelet")
    assert not host.root.exists(old)
    assert all(host.root.read(places.manifest(name)) != text for name, text in before.items())
    verbs = [call[1] for call in host.runner.calls if call[-1:] == (places.KUBELET_UNIT,)]
    assert verbs.index("stop") < verbs.index("restart")


@pytest.mark.parametrize(("days_left", "renewed"), [(-1, True), (3, False)])
@pytest.mark.parametrize(
    "gate",
    [
        do.GateControlPlane(version="1.36.3", gate_limit_s=1),
        do.GateNode(version="1.36.3", gate_limit_s=1, settle_s=0),
    ],
    ids=["control-plane", "node"],
)
async def test_a_gate_after_a_long_absence_renews_first(
    host, gate: do.Step, days_left: float, renewed: bool
) -> None:
    """An operation that a power cut interrupted goes on before any other is planned."""
    await unpack(host)
    put_all(host, days_left=days_left)
    host.runner.fail(f"{places.LINKS}/kubectl")

    with pytest.raises(EngineFailed):  # nothing answers here
        await host.engine.perform(gate, host.cluster())

    kubeadm = host.doors.root.host_path(places.program("1.36.3", "kubeadm"))
    assert host.runner.called(kubeadm, "certs", "renew", "all") is renewed
