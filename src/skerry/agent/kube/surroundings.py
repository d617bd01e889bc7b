"""What is on the host before the cluster: foreign Kubernetes, busy ports, missing programs.

A finding names what it is and where it was seen, so that a refusal can be acted on.
"""

from __future__ import annotations

from skerry.agent.kube import places
from skerry.agent.kube.engine import EngineFailed, Reason
from skerry.agent.kube.record import Doors
from skerry.lib.files import FileMissing
from skerry.plan.observed import Finding

_LISTEN = "0A"
_LEAST_FREE_BYTES = 2 << 30
_LEAST_MEMORY_KIB = 900_000

_FOREIGN_FILES = {
    "k3s": ("/var/lib/rancher/k3s/server", "/var/lib/rancher/k3s/agent", "/etc/rancher/k3s"),
    "rke2": ("/var/lib/rancher/rke2", "/etc/rancher/rke2"),
    "k0s": ("/var/lib/k0s", "/etc/k0s"),
    "microk8s": ("/var/snap/microk8s",),
    "Kubernetes made by kubeadm": ("/etc/kubernetes/manifests/kube-apiserver.yaml",),
    "etcd": ("/var/lib/etcd/member",),
    "a kubelet": ("/var/lib/kubelet/config.yaml", "/var/lib/kubelet/kubeconfig"),
}
_FOREIGN_UNITS = ("kubelet", "k3s", "k3s-agent", "rke2-server", "rke2-agent", "k0scontroller")
_UNIT_FOLDERS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_PROGRAMS = {
    "ip": "iproute2",
    "nft": "nftables",
    "iptables": "iptables",
    "mount": "mount",
    "umount": "mount",
    "systemctl": "systemd",
    "conntrack": "conntrack",
    "ethtool": "ethtool",
}
_FOLDERS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin")


def foreign(doors: Doors) -> tuple[Finding, ...]:
    """Another Kubernetes on this host, or something that listens on Kubernetes' ports."""
    found: list[Finding] = []
    for what, paths in _FOREIGN_FILES.items():
        found += [Finding(what=what, where=path) for path in paths if doors.root.exists(path)][:1]
    for unit in _FOREIGN_UNITS:
        for folder in _UNIT_FOLDERS:
            path = f"{folder}/{unit}.service"
            if doors.root.exists(path) and doors.root.read_link(path) != "/dev/null":
                found.append(Finding(what=f"unit {unit}.service", where=path))
                break
    found += [
        Finding(what=f"port {port}", where="a program listens on it")
        for port in sorted(listening(doors).intersection(places.PORTS))
    ]
    return tuple(found)


def listening(doors: Doors) -> set[int]:
    """TCP ports that some program of this host listens on."""
    ports: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = doors.root.read(table).decode().splitlines()[1:]
        except FileMissing:
            continue
        for line in lines:
            words = line.split()
            if len(words) > 3 and words[3] == _LISTEN:
                ports.add(int(words[1].rsplit(":", 1)[1], 16))
    return ports


def preflight(doors: Doors) -> None:
    """Raises EngineFailed with everything that stands in the way at once."""
    if doors.record().started:
        return
    findings = foreign(doors)
    if findings:
        told = ", ".join(f"{item.what} ({item.where})" for item in findings)
        raise EngineFailed(
            Reason.FOREIGN_KUBERNETES,
            f"this host already runs something in the cluster's place: {told}",
            hint="remove it, or use another host",
            retryable=False,
        )
    problems = [*_missing_programs(doors), *_too_small(doors)]
    if problems:
        raise EngineFailed(
            Reason.PREFLIGHT_REFUSED,
            f"this host cannot run Kubernetes: {'; '.join(problems)}",
            hint="put this right; the host tries again by itself",
            retryable=False,
        )


def _missing_programs(doors: Doors) -> list[str]:
    return [
        f"program {name} is missing (package {package})"
        for name, package in _PROGRAMS.items()
        if not any(doors.root.exists(f"{folder}/{name}") for folder in _FOLDERS)
    ]


def _too_small(doors: Doors) -> list[str]:
    problems: list[str] = []
    free = doors.root.free_bytes(places.STATE)
    if free < _LEAST_FREE_BYTES:
        problems.append(
            f"{free >> 20} MiB are free under {places.STATE},"
            f" {_LEAST_FREE_BYTES >> 20} MiB are the least"
        )
    for line in doors.text("/proc/meminfo").splitlines():
        words = line.split()
        if words[:1] == ["MemTotal:"] and int(words[1]) < _LEAST_MEMORY_KIB:
            problems.append(
                f"{int(words[1]) >> 10} MiB of memory, {_LEAST_MEMORY_KIB >> 10} MiB are the least"
            )
    return problems
