"""The seeded fleet: something in every state that a console has to show."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import msgspec
import yaml

from skerry.manager.auth import accounts
from skerry.manager.services import objects
from skerry.manager.services.centre import INTERNAL, Centre
from skerry.manager.store.protocol import Event, Put, WriteSet
from skerry.model import kinds as k
from skerry.model.inventory import Disk, Inventory, Nic
from skerry.model.meta import Condition, Metadata, Resource
from skerry.model.osstate import OsSlotState, OsState

PASSWORD = "kelp and granite 7"
USERS = {"admin": "admin", "olga": "operator", "vera": "viewer", "nemo": ""}

SITES = {
    "bell-rock": "Arbroath, off the Angus coast",
    "fastnet": "Mizen Head, County Cork",
    "muckle-flugga": "Unst, Shetland",
    "north-pier": "Pier road 4, Kirkwall",
    "skerryvore": "Tiree, Inner Hebrides",
    "sule-skerry": "Sixty kilometres off Cape Wrath",
}
PROFILE = """\
kind: ClusterProfile
metadata: {name: shop}
spec:
  version: VERSION
  type: full
  description: Single-node Kubernetes with the shop's web application
  variables:
    - {name: greeting, default: Hello from the edge, description: Text on the page}
    - {name: port, format: number, default: "30080", description: Port on the node}
  layers:
    - name: kubernetes
      type: kubernetes
      provider: kubeadm
      version: KUBERNETES
      values: |
        upgrade:
          gateLimit: 120s
        kubelet:
          maxPods: MAXPODS
    - {name: network, type: network, provider: routed}
    - name: web
      type: addon
      namespace: shop
      manifests: |
        apiVersion: v1
        kind: ConfigMap
        metadata:
          name: page
        data:
          index.html: |
            <!doctype html><title>shop</title><h1>${{ greeting }}</h1>
"""


async def seed(centre: Centre) -> None:
    """A small fleet in every state that a console has to show."""
    for user, role in USERS.items():
        if user != "admin":
            await apply(centre, {"kind": "User", "metadata": {"name": user}, "spec": {}})
        await accounts.set_password(
            centre.store, user, PASSWORD, actor="system:seed", now=centre.clock.now()
        )
        if role and user != "admin":
            binding = {"role": role, "subjects": [f"user:{user}"]}
            document = {"kind": "RoleBinding", "metadata": {"name": user}, "spec": binding}
            await apply(centre, document)
    for site, address in SITES.items():
        spec = {"address": address, "timeZone": "Europe/London"}
        await apply(centre, {"kind": "Site", "metadata": {"name": site}, "spec": spec})
    for version, kubernetes, pods in (
        ("1.0.0", "1.35.4", "110"),
        ("1.1.0", "1.35.4", "150"),
        ("2.0.0", "1.36.3", "150"),
    ):
        text = PROFILE.replace("VERSION", version)
        text = text.replace("KUBERNETES", kubernetes).replace("MAXPODS", pods)
        await apply(centre, yaml.safe_load(text))
    await hosts(centre)
    await clusters(centre)
    for name, spec in (
        ("autumn-rollout", {"site": "fastnet", "maximumUses": 12, "autoApprove": True}),
        ("service-van-3", {"labels": {"tier": "spare"}}),
    ):
        await apply(centre, {"kind": "RegistrationToken", "metadata": {"name": name}, "spec": spec})


async def apply(centre: Centre, document: dict[str, Any]) -> Any:
    return (await objects.apply(centre, INTERNAL, document)).resource


def inventory(number: int) -> Inventory:
    return Inventory(
        architecture="amd64",
        cpu_model="Intel(R) N100",
        cpu_cores=4,
        memory_bytes=16 * 1024**3,
        disks=(Disk(name="nvme0n1", size_bytes=512_110_190_592, model="KIOXIA EXCERIA"),),
        nics=(
            Nic(
                name="enp1s0",
                mac=f"02:00:5e:10:00:{number:02x}",
                addresses=(f"10.20.{number}.11",),
                is_default=True,
                state="up",
            ),
        ),
        os_name="Debian GNU/Linux",
        os_version="13",
        kernel="6.12.48+deb13-amd64",
        vendor="Protectli",
        product="V1410",
        serial=f"PL{410000 + number * 37}",
        tpm=True,
        secure_boot=number % 2 == 0,
    )


async def hosts(centre: Centre) -> None:
    now = centre.clock.now()
    places = list(SITES)
    for number in range(26):
        site = places[number % len(places)]
        name = f"{site}-{number // len(places) + 1}"
        await put_host(centre, name, site, number, minutes=number % 5)
    for number, name in ((30, "till-fastnet-new"), (31, "till-kirkwall-7"), (32, "van-spare")):
        await put_host(centre, name, "", number, approval=k.Approval.PENDING)
    long = "kiosk-with-a-name-that-is-as-long-as-the-rules-for-names-allow"
    await put_host(centre, long, "north-pier", 40, offline=timedelta(days=3))
    await put_host(centre, "sule-skerry-9", "sule-skerry", 41, offline=timedelta(hours=7))
    silent = Condition(
        type="KubernetesHealthy",
        status="False",
        reason="DiskFull",
        message="/var/lib/skerry has 212 MiB left, staging 1.36.3 needs 1.9 GiB",
        since=now - timedelta(minutes=41),
    )
    await put_host(centre, "muckle-flugga-9", "muckle-flugga", 42, conditions=(silent,))
    foreign = Condition(
        type="Reconciled",
        status="False",
        reason="ForeignKubernetes",
        message="k3s.service runs on this host and holds port 6443",
        since=now - timedelta(hours=3),
    )
    await put_host(centre, "fastnet-9", "fastnet", 43, conditions=(foreign,))
    await systems(centre)


async def systems(centre: Centre) -> None:
    """One host per state of an OS update: in order, on trial, returned, not managed."""
    now = centre.clock.now()
    old, new = (f"sha256:{letter * 64}" for letter in "ab")

    def slots(second: str) -> tuple[OsSlotState, ...]:
        return (
            OsSlotState(name="a", state="good", version="1.3.0", image=old),
            OsSlotState(name="b", state=second, version="1.4.0", image=new),
        )

    def said(status: str, reason: str, message: str) -> tuple[Condition, ...]:
        at = now - timedelta(minutes=4)
        return (
            Condition(type="OsUpdated", status=status, reason=reason, message=message, since=at),
        )

    runs_new = OsState(engine="ab", slot="b", version="1.4.0", image=new, slots=slots("good"))
    trial = OsState(
        engine="ab", slot="b", version="1.4.0", image=new, on_trial=True, slots=slots("trial")
    )
    back = OsState(
        engine="ab", slot="a", version="1.3.0", image=old, slots=slots("bad"), failed=(new,)
    )
    gate = k.Progress(
        operation="update-os", step="wait for a healthy host", index=4, total=6, started_at=now
    )
    words = "OS 1.4.0 was not healthy within 675 s: NodeReady is False: the kubelet does not start"
    for number, name, state, more, progress in (
        (50, "sule-skerry-os-good", runs_new, said("True", "Ready", "1.4.0"), None),
        (51, "sule-skerry-os-trial", trial,
         said("Unknown", "OsUpdating", "OS 1.4.0 runs and has still to prove itself"), gate),
        (52, "sule-skerry-os-back", back, said("False", "OsReturned", words), None),
        (53, "sule-skerry-os-package", OsState(engine="package", version="debian 13"),
         said("False", "OsNotManaged", "OS image 1.4.0 is wanted, but this host's system is managed"
              " by its own packages; skerry leaves it alone"), None),
    ):  # fmt: skip
        await put_host(centre, name, "sule-skerry", number, conditions=more)
        host = await centre.store.get("Host", "default", name)
        status = msgspec.structs.replace(
            host.status, os=state, desired_os="1.4.0", progress=progress
        )
        changed = msgspec.structs.replace(host, status=status)
        await centre.store.commit(WriteSet(puts=(Put(changed, host.metadata.revision),)))


async def put_host(
    centre: Centre,
    name: str,
    site: str,
    number: int,
    *,
    approval: k.Approval = k.Approval.APPROVED,
    offline: timedelta | None = None,
    minutes: int = 0,
    conditions: tuple[Condition, ...] = (),
) -> None:
    now = centre.clock.now()
    fingerprint = hashlib.sha256(name.encode()).hexdigest()
    waits = approval is k.Approval.PENDING
    registered = Condition(
        type="Registered",
        status="False" if waits else "True",
        reason="AwaitingApproval" if waits else "Approved",
        message="waits for an operator to approve it" if waits else "by olga",
        since=now - timedelta(days=20),
    )
    contact = now - (offline or timedelta(seconds=20 + minutes * 7))
    line = Condition(type="Reachable", status="True", reason="Reachable", since=contact)
    if offline:
        message = f"no contact since {contact:%Y-%m-%d %H:%M} UTC"
        line = Condition(
            type="Reachable", status="Unknown", reason="HostSilent", message=message, since=contact
        )
    status = k.HostStatus(
        phase=k.HostPhase.PENDING if waits else k.HostPhase.READY,
        fingerprint=fingerprint,
        registration_code=f"{fingerprint[:4]}-{fingerprint[4:8]}".upper(),
        agent_version="0.1.0",
        addresses=(f"10.20.{number}.11",),
        host_name=name,
        inventory=inventory(number),
        registered_at=now - (timedelta(minutes=3) if waits else timedelta(days=20, hours=number)),
        last_contact=contact,
        certificate_expires_at=now + timedelta(days=70),
        conditions=(registered, *(() if waits else (line,)), *conditions),
    )
    host: Any = Resource(
        kind="Host",
        metadata=Metadata(
            name=name,
            project="default",
            uid=f"uid-{name}",
            labels={"tier": "till" if number % 3 else "kiosk", "ring": str(number % 2)},
            generation=1,
            created_at=now,
        ),
        spec=k.HostSpec(site=site, approval=approval),
        status=status,
    )
    event = Event(now, "Host", "default", name, "Registered", "from 10.20.0.1: by token")
    await centre.store.commit(WriteSet(puts=(Put(host, 0),), events=(event,)))


async def clusters(centre: Centre) -> None:
    """One per state: running, upgrading, degraded."""
    now = centre.clock.now()
    for name, host, version, greeting in (
        ("shop-bell-rock", "bell-rock-1", "1.1.0", "Ahoy"),
        ("shop-fastnet", "fastnet-1", "1.1.0", "Dia dhuit"),
        ("shop-north-pier", "north-pier-1", "1.1.0", "Hello Kirkwall"),
        ("shop-skerryvore", "skerryvore-1", "2.0.0", "Hello Tiree"),
    ):
        await apply(
            centre,
            {
                "kind": "Cluster",
                "metadata": {"name": name},
                "spec": {
                    "profiles": [{"name": "shop", "version": version}],
                    "variables": {"greeting": greeting},
                    "pools": [{"name": "main", "role": "control-plane", "hosts": [host]}],
                },
            },
        )
    layers = (
        k.LayerState(name="network", digest="sha256:" + "4b1d" * 16, ready=True),
        k.LayerState(name="web", digest="sha256:" + "9c07" * 16, ready=True),
    )
    good = Condition(type="Ready", status="True", reason="Running", since=now - timedelta(days=4))
    mark = k.DesiredMark(epoch=7, digest="sha256:" + "a3f1" * 16)
    older = k.DesiredMark(epoch=6, digest="sha256:" + "07bd" * 16)
    for name, host in (("shop-bell-rock", "bell-rock-1"), ("shop-north-pier", "north-pier-1")):
        await status_of_host(centre, host, name, "1.35.4", mark, mark, layers)
        await status_of_cluster(centre, name, host, k.ClusterPhase.RUNNING, good, layers)
    progress = k.Progress(
        operation="Upgrade Kubernetes 1.35.4 to 1.36.3",
        step="Replace the control plane, one component at a time",
        index=9,
        total=17,
        started_at=now - timedelta(minutes=4),
    )
    work = Condition(
        type="Ready",
        status="False",
        reason="InProgress",
        message="host skerryvore-1: Replace the control plane (9 of 17)",
        since=now - timedelta(minutes=4),
    )
    await status_of_host(
        centre, "skerryvore-1", "shop-skerryvore", "1.35.4", mark, older, layers, progress=progress
    )
    await status_of_cluster(
        centre, "shop-skerryvore", "skerryvore-1", k.ClusterPhase.UPDATING, work, layers
    )
    bad = Condition(
        type="Ready",
        status="False",
        reason="UpgradeReturned",
        message="host fastnet-1: the API server of 1.36.3 did not answer within 120 s;"
        " the host returned to 1.35.4, nothing was lost",
        since=now - timedelta(hours=1),
    )
    returned = Condition(
        type="Reconciled",
        status="False",
        reason="UpgradeReturned",
        message="the API server of 1.36.3 did not answer within 120 s; the host returned to"
        " 1.35.4, nothing was lost",
        since=now - timedelta(hours=1),
    )
    await status_of_host(
        centre, "fastnet-1", "shop-fastnet", "1.35.4", mark, older, layers, conditions=(returned,)
    )
    await status_of_cluster(
        centre, "shop-fastnet", "fastnet-1", k.ClusterPhase.DEGRADED, bad, layers
    )


async def status_of_host(
    centre: Centre,
    name: str,
    cluster: str,
    version: str,
    desired: k.DesiredMark,
    acknowledged: k.DesiredMark,
    layers: tuple[k.LayerState, ...],
    *,
    progress: k.Progress | None = None,
    conditions: tuple[Condition, ...] = (),
) -> None:
    now = centre.clock.now()
    host = await centre.store.get("Host", "default", name)
    kubernetes = k.KubernetesState(
        cluster=cluster,
        release=version,
        control_plane_version=version,
        kubelet_version=version,
        api_ready=True,
        node_ready=True,
        certificates_expire_at=now + timedelta(days=281),
        last_snapshot_at=now - timedelta(hours=2),
        layers=layers,
    )
    fine = Condition(
        type="KubernetesHealthy", status="True", reason="Ready", since=now - timedelta(days=4)
    )
    status = msgspec.structs.replace(
        host.status,
        desired=desired,
        acknowledged=acknowledged,
        kubernetes=kubernetes,
        progress=progress,
        conditions=(*host.status.conditions, fine, *conditions),
    )
    events = tuple(
        Event(now - timedelta(minutes=ago), "Host", "default", name, reason, message, severity)
        for ago, reason, message, severity in (
            (9000, "ClusterFormed", f"node {name} of {cluster} is Ready", "info"),
            (118, "SnapshotTaken", "etcd saved, 14.2 MiB", "info"),
            *((61, c.reason, c.message, "warning") for c in conditions),
        )
    )
    changed = msgspec.structs.replace(host, status=status)
    await centre.store.commit(WriteSet(puts=(Put(changed, host.metadata.revision),), events=events))


async def status_of_cluster(
    centre: Centre,
    name: str,
    host: str,
    phase: k.ClusterPhase,
    condition: Condition,
    layers: tuple[k.LayerState, ...],
) -> None:
    now = centre.clock.now()
    cluster = await centre.store.get("Cluster", "default", name)
    status = k.ClusterStatus(
        phase=phase,
        kubernetes_version="1.35.4",
        nodes=(k.NodeState(host=host, role="control-plane", ready=True, version="1.35.4"),),
        layers=layers,
        desired_digest="sha256:" + "a3f1" * 16,
        conditions=(condition,),
    )
    event = Event(
        now, "Cluster", "default", name, "PhaseChanged", f"Pending -> {phase.value}", "info"
    )
    changed = msgspec.structs.replace(cluster, status=status)
    await centre.store.commit(
        WriteSet(puts=(Put(changed, cluster.metadata.revision),), events=(event,))
    )
