"""Everything of a host that software could leave behind, recorded as text, and the differences of
two recordings.

What may differ is listed in `ALLOWED` with its reason; everything else is a trace.
"""

from __future__ import annotations

import re

from skerry.lab import ContainerHost

Trace = dict[str, frozenset[str]]

# One section each: a name, and a script that prints one fact per line.
_SECTIONS = {
    "links": "ip -o link | sed -E 's/^[0-9]+: ([^:@]+)(@[^:]*)?:.*(mtu [0-9]+).*/\\1 \\3/'",
    "addresses": "ip -o addr | awk '{print $2, $3, $4}'",
    "routes": "ip route show table all; ip -6 route show table all | sed 's/ expires .*//'",
    "rules": "ip rule; ip -6 rule",
    "network namespaces": "ip netns list",
    "nft rules": "nft list ruleset",
    "iptables rules": "(iptables-save; ip6tables-save) 2>&1 | grep -v '^#'; true",
    "mounts": "findmnt --raw --noheadings --output TARGET,FSTYPE,VFS-OPTIONS",
    "unit files": "systemctl list-unit-files --plain --no-legend --no-pager",
    "units": "systemctl list-units --all --plain --no-legend --no-pager | awk '{print $1, $2, $3}'",
    "control groups": "find /sys/fs/cgroup -mindepth 1 -type d -printf '%P\\n'",
    "kernel settings": (
        "find /proc/sys -type f -perm -u=w -exec grep -H . {} + 2>/dev/null | tr '\\t' ' '; true"
    ),
    "processes": "ps -eo user=,args=",
    "users": "getent passwd; getent group",
    "files": (
        "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run \\) -prune -o"
        " -printf '%y %m %U:%G %p %l\\n';"
        " find /var/lib/skerry /var/lib/kubelet /var/lib/etcd /run -xdev"
        " -printf '%y %m %U:%G %p %l\\n' 2>/dev/null; true"
    ),
    "content": (
        "find /etc /opt /usr/local /root /home -xdev -type f -exec sha256sum {} + | sort; true"
    ),
}

# Section -> (pattern of a line, why it may differ).
ALLOWED: dict[str, list[tuple[str, str]]] = {
    "files": [
        (r". \d+ \S+ /var/log/", "the machine's own journal and logs stay"),
        (r". \d+ \S+ /run/log/", "the same, before the journal is written to disk"),
        (r". \d+ \S+ /run/systemd/", "the service manager's own bookkeeping"),
        (r". \d+ \S+ /run/udev/", "the device manager's own bookkeeping"),
        (r". \d+ \S+ /run/credentials/", "empty folders of services that were started"),
        (r". \d+ \S+ /run/(utmp|motd|nologin|user|lock|host)\b", "made by boot and sign-in"),
        (r". \d+ \S+ /var/lib/systemd/", "stamps of timers, random seed, saved state"),
        (r". \d+ \S+ /(var/)?tmp/systemd-private-", "private folders of running services"),
        (r". \d+ \S+ /var/cache/(ldconfig|private)", "made by the system's own services"),
        (r". \d+ \S+ /var/lib/writer\b", "the workload's data: a hostPath is its owner's"),
    ],
    "kernel settings": [
        (r"/proc/sys/kernel/(random/|ns_last_pid|pty/nr)", "counters, not settings"),
        (r"/proc/sys/net/netfilter/nf_conntrack_(count|buckets)", "follow the kernel's use"),
        (r"/proc/sys/net/ipv4/(tcp_fastopen_key|icmp_)", "keys and counters of the kernel"),
        (r"/proc/sys/fs/", "counters and limits of the whole computer, not of a host"),
        (r"/proc/sys/net/ipv[46]/neigh/default/", "follow from links that came and went"),
    ],
    "processes": [
        (r".*(sd-pam|agetty|systemd|dbus|udev-worker)", "the system's own, started on demand"),
        (r"root +(sh|ps) -", "of the recording itself"),
    ],
    "control groups": [
        (r".*system\.slice/systemd-.*", "the system's own services"),
        (r".*user\.slice", "made at the first sign-in"),
        (r".*(init\.scope|system\.slice)/?[^/]*\.(mount|socket|service)$", "see section units"),
    ],
    "units": [
        (r"(systemd-|ldconfig)\S+ ", "the system's own services come and go"),
        (r"network-online.target ", "a moment of the boot that the agent waited for"),
        (r"(dev|sys|proc|run|var|boot|tmp)-\S+ ", "devices and mounts; see section mounts"),
        (r"(session|user)[-@]\S+ ", "made by sign-in"),
    ],
}


async def record(host: ContainerHost) -> Trace:
    """A recording of the running host."""
    # systemd takes its time to unload units that ended.
    await host.run(["systemctl", "daemon-reload"], timeout_s=60)
    found: Trace = {}
    for name, script in _SECTIONS.items():
        done = await host.run(["sh", "-c", script], timeout_s=120)
        found[name] = frozenset(line.rstrip() for line in done.stdout.splitlines() if line.strip())
    return found


def differences(before: Trace, after: Trace) -> list[str]:
    """Lines that came or went and are not allowed to, by section."""
    told: list[str] = []
    for name in _SECTIONS:
        allowed = re.compile("|".join(pattern for pattern, _ in ALLOWED.get(name, [("$^", "")])))
        for sign, lines in (("+", after[name] - before[name]), ("-", before[name] - after[name])):
            told += [f"{name} {sign} {line}" for line in sorted(lines) if not allowed.match(line)]
    return told
