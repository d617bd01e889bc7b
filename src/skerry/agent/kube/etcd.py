"""etcd snapshots and restore points.

A restore point is a folder under snapshots/: `etcd.db` (with `etcd.json` written after it) and
`files.json`, the host's files and links as they were. A scheduled snapshot has only the first.
A point that an operation needs is never pruned while it is the newest of its kind.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime

import msgspec

from skerry.agent.kube import controlplane, places, runtime
from skerry.agent.kube.engine import EngineFailed, Reason
from skerry.agent.kube.record import Doors
from skerry.lib.files import FileMissing
from skerry.lib.proc import CommandFailed, CommandTimedOut
from skerry.model.meta import Record

_FILES = (
    *(places.manifest(name) for name in (*places.CONTROL_PLANE, "etcd")),
    places.KUBELET_CONFIG,
    places.KUBELET_FLAGS,
    f"{places.KUBELET}/instance-config.yaml",
    places.KUBEADM_CONFIG,
    places.CONTAINERD_CONFIG,
    places.PROXY_ENV,
    places.CNI_CONFIG,
    f"{places.PKI}/apiserver.crt",
    f"{places.PKI}/apiserver.key",
    *(f"{places.UNITS}/{name}" for name in places.ALL_UNITS),
)
_LINKS = (*places.RUNTIME_PROGRAMS, *places.KUBELET_PROGRAMS, "cni")


class EtcdSave(Record, frozen=True, kw_only=True):
    """Says that `etcd.db` is complete."""

    saved_at: datetime
    digest: str
    version: str


class FilesSave(Record, frozen=True, kw_only=True):
    """Files by path (base64; None: was not there) and links by name, with what was confirmed."""

    version: str
    config_digest: str
    files: dict[str, str | None]
    links: dict[str, str]


def _point(name: str) -> str:
    return f"{places.SNAPSHOTS}/{name}"


def save_files(doors: Doors, point: str) -> None:
    """Start a restore point: drop one of the same name and copy the host's files."""
    folder = _point(point)
    doors.root.remove(folder)
    record = doors.record()
    files: dict[str, str | None] = {}
    for path in _FILES:
        try:
            files[path] = base64.b64encode(doors.root.read(path)).decode()
        except FileMissing:
            files[path] = None
    links = {name: doors.root.read_link(f"{places.LINKS}/{name}") or "" for name in _LINKS}
    save = FilesSave(
        version=record.version, config_digest=record.config_digest, files=files, links=links
    )
    doors.root.mkdir(folder, mode=0o700)
    doors.root.write(f"{folder}/files.json", msgspec.json.encode(save), mode=0o600)


async def snapshot(doors: Doors, point: str, *, keep: int) -> None:
    """Save etcd into a point, unless it is there already, and prune old points."""
    folder = _point(point)
    if doors.root.exists(f"{folder}/etcd.json"):
        return
    doors.root.mkdir(places.SNAPSHOTS, mode=0o700)
    doors.root.mkdir(folder, mode=0o700)
    target = doors.root.host_path(f"{folder}/etcd.db")
    doors.root.remove(f"{folder}/etcd.db")
    version = doors.linked_version("kubelet")
    pki = doors.root.host_path(f"{places.PKI}/etcd")
    try:
        await doors.run(
            doors.root.host_path(places.program(version, "etcdctl")),
            "--endpoints=https://127.0.0.1:2379",
            f"--cacert={pki}/ca.crt",
            f"--cert={pki}/healthcheck-client.crt",
            f"--key={pki}/healthcheck-client.key",
            "snapshot",
            "save",
            target,
            timeout_s=120,
        )
    except (CommandFailed, CommandTimedOut) as exc:
        text = exc.result.stderr if isinstance(exc, CommandFailed) else exc.message
        raise EngineFailed(
            Reason.SNAPSHOT_FAILED,
            f"cannot save etcd: {text.strip()[-400:]}",
            hint="see whether etcd runs and space is left under /var/lib/skerry",
        ) from exc
    now = doors.clock.now()
    hashing = hashlib.sha256()
    for chunk in doors.root.read_chunks(f"{folder}/etcd.db"):
        hashing.update(chunk)
    digest = f"sha256:{hashing.hexdigest()}"
    save = EtcdSave(saved_at=now, digest=digest, version=doors.record().version)
    doors.root.write(f"{folder}/etcd.json", msgspec.json.encode(save), mode=0o600)
    doors.remember(snapshot_at=now)
    _prune(doors, keep=keep, but=point)


def _prune(doors: Doors, *, keep: int, but: str) -> None:
    saves: list[tuple[datetime, str]] = []
    for name in doors.root.list(places.SNAPSHOTS):
        path = f"{_point(name)}/etcd.json"
        if name == but:
            continue
        if doors.root.exists(path):
            save = msgspec.json.decode(doors.root.read(path), type=EtcdSave)
            saves.append((save.saved_at, name))
        elif not doors.root.exists(f"{_point(name)}/files.json"):
            doors.root.remove(_point(name))  # a save that was cut
    for _, name in sorted(saves, reverse=True)[max(keep - 1, 0) :]:
        doors.root.remove(_point(name))


async def restore(doors: Doors, point: str) -> None:
    """Put etcd (when the point has it), files and links back and start the kubelet."""
    folder = _point(point)
    try:
        save = msgspec.json.decode(doors.root.read(f"{folder}/files.json"), type=FilesSave)
    except FileMissing as exc:
        raise EngineFailed(
            Reason.RESTORE_FAILED,
            f"restore point {point} is gone",
            hint="call for help: the host cannot return by itself",
        ) from exc
    await controlplane.stop_all(doors)
    if doors.root.exists(f"{folder}/etcd.json"):
        await _restore_etcd(doors, folder, save.version)
    for path, content in save.files.items():
        if content is None:
            doors.root.remove(path)
        else:
            secret = path.endswith(".key") or path.startswith((places.MANIFESTS, places.KUBE))
            data = base64.b64decode(content)
            if not doors.root.exists(path) or doors.root.read(path) != data:
                doors.root.write(path, data, mode=0o600 if secret else 0o644)
    for name, target in save.links.items():
        if target:
            doors.root.link(f"{places.LINKS}/{name}", target)
    doors.remember(version=save.version, config_digest=save.config_digest)
    await doors.systemctl("daemon-reload")
    await doors.systemctl("restart", places.HOST_UNIT)
    await runtime.switch_runtime(doors, save.version)
    await runtime.switch_kubelet(doors, save.version)


async def _restore_etcd(doors: Doors, folder: str, version: str) -> None:
    """Make a new data folder from the snapshot, then swap; done again after any cut.

    Revisions jump ahead, so that no watcher takes a number for one that it saw before the
    return (https://etcd.io/docs/v3.6/op-guide/recovery/, revision bump).
    """
    record = doors.record()
    host = f"[{record.address}]" if ":" in record.address else record.address
    fresh = f"{places.STATE}/etcd.restored"
    doors.root.remove(fresh)
    try:
        await doors.run(
            doors.root.host_path(places.program(version, "etcdutl")),
            "snapshot",
            "restore",
            doors.root.host_path(f"{folder}/etcd.db"),
            "--data-dir",
            doors.root.host_path(fresh),
            "--name",
            record.node_name,
            "--initial-cluster",
            f"{record.node_name}=https://{host}:2380",
            "--initial-advertise-peer-urls",
            f"https://{host}:2380",
            "--bump-revision",
            "1000000000",
            "--mark-compacted",
            timeout_s=300,
        )
    except (CommandFailed, CommandTimedOut) as exc:
        text = exc.result.stderr if isinstance(exc, CommandFailed) else exc.message
        raise EngineFailed(
            Reason.RESTORE_FAILED, f"cannot restore etcd: {text.strip()[-400:]}"
        ) from exc
    doors.root.remove(places.ETCD)
    doors.root.rename(fresh, places.ETCD)
    doors.root.mkdir(places.ETCD, mode=0o700)
