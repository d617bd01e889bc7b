"""Certificates of the control plane and the kubelet: how long they live, and renewing them.

Works without the API and after everything has expired, because the cluster's authorities are on
this host. The kubelet's own client certificate is made anew too: with an expired one it could
neither start nor ask for another. What holds a certificate in memory is started anew at once,
kubelet included, so the API is away for seconds; pods do not notice.
"""

from __future__ import annotations

import base64
from datetime import datetime

import yaml
from cryptography import x509

from skerry.agent.kube import controlplane, places, runtime
from skerry.agent.kube.record import Doors
from skerry.lib.files import FileMissing
from skerry.plan.desired import DesiredCluster

_FILES = (
    f"{places.PKI}/apiserver.crt",
    f"{places.PKI}/apiserver-kubelet-client.crt",
    f"{places.PKI}/apiserver-etcd-client.crt",
    f"{places.PKI}/front-proxy-client.crt",
    f"{places.PKI}/etcd/server.crt",
    f"{places.PKI}/etcd/peer.crt",
    f"{places.PKI}/etcd/healthcheck-client.crt",
)
_KUBECONFIGS = (
    places.ADMIN_CONF,
    places.SUPER_ADMIN_CONF,
    f"{places.KUBERNETES}/controller-manager.conf",
    f"{places.KUBERNETES}/scheduler.conf",
    # Only until the kubelet has a certificate of its own: it then points to a file.
    places.KUBELET_CONF,
)
_KUBELET_CURRENT = f"{places.KUBELET}/pki/kubelet-client-current.pem"


def validity(doors: Doors) -> tuple[datetime, datetime] | None:
    """(issued at, expires at) of the certificate that expires first; None without any."""
    found = [cert for path in _FILES if (cert := _certificate(_text(doors, path)))]
    found += [cert for path in _KUBECONFIGS if (cert := _of_kubeconfig(_text(doors, path)))]
    kubelet = _certificate(_text(doors, _KUBELET_CURRENT))
    if kubelet is not None and kubelet.not_valid_after_utc <= doors.clock.now():
        # A living one rotates by itself; one that expired while the host was off cannot.
        found.append(kubelet)
    if not found:
        return None
    first = min(found, key=lambda item: item.not_valid_after_utc)
    return first.not_valid_before_utc, first.not_valid_after_utc


async def renew(doors: Doors, cluster: DesiredCluster, *, version: str) -> None:
    """Renew everything and restart what holds a certificate in memory."""
    config = controlplane.write_config(doors, cluster, version=version)
    await controlplane.kubeadm(doors, version, "certs", "renew", "all", "--config", config)
    doors.root.remove(places.KUBELET_CONF)
    await controlplane.kubeadm(
        doors, version, "init", "phase", "kubeconfig", "kubelet", "--config", config
    )
    for name in doors.root.list(f"{places.KUBELET}/pki"):
        if name.startswith("kubelet-client-"):
            doors.root.remove(f"{places.KUBELET}/pki/{name}")
    expires = validity(doors)
    controlplane.restart_mark(doors, expires[1].isoformat() if expires else "renewed")
    await controlplane.stop_all(doors)
    doors.root.remove(places.KUBELET_APPLIED)
    await runtime.switch_kubelet(doors, doors.linked_version("kubelet") or version)


async def renew_expired(doors: Doors, cluster: DesiredCluster, *, version: str) -> None:
    """Renew when something has expired already.

    For an operation that was cut by a long absence: it goes on, or back, before anything else is
    planned, and could do neither with certificates that nobody takes any more.
    """
    found = validity(doors)
    if found is not None and found[1] <= doors.clock.now():
        await renew(doors, cluster, version=version)


def _text(doors: Doors, path: str) -> bytes:
    try:
        return doors.root.read(path)
    except FileMissing:
        return b""


def _certificate(pem: bytes) -> x509.Certificate | None:
    return x509.load_pem_x509_certificate(pem) if b"BEGIN CERTIFICATE" in pem else None


def _of_kubeconfig(text: bytes) -> x509.Certificate | None:
    if not text:
        return None
    for user in yaml.safe_load(text).get("users") or []:
        data = user.get("user", {}).get("client-certificate-data")
        if data:
            return _certificate(base64.b64decode(data))
    return None
