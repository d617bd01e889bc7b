"""What a lab host has beyond a plain Debian: files, links and masked units, as data.

Two kinds: for the tree (the same on every host, part of the tree's content id) and for one host.
The early unit repairs what a container is not given: writable control groups and shared mounts.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

_MAKE_WRITABLE = """\
#!/bin/sh
# nspawn leaves cgroup v1 controllers read-only and mounts private; the kubelet needs neither.
set -eu
while read -r _ _ _ _ place _; do
    case "$place" in
        /sys/fs/cgroup | /sys/fs/cgroup/*) mount -o remount,rw,bind "$place" || true ;;
    esac
done </proc/self/mountinfo
mount --make-rshared /
"""

_EARLY_UNIT = """\
[Unit]
Description=Give this lab host writable control groups and shared mounts
DefaultDependencies=no
Before=local-fs-pre.target sysinit.target systemd-udevd.service systemd-tmpfiles-setup-dev.service
Wants=local-fs-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/lib/skerry-lab/make-writable

[Install]
WantedBy=sysinit.target
"""

# Only this host's own interfaces: the rest of /sys belongs to the computer that runs the lab.
_UDEV_TRIGGER = """\
[Service]
ExecStart=
ExecStart=udevadm trigger --type=devices --action=add --subsystem-match=net
"""

_JOURNAL = """\
[Journal]
Storage=persistent
SystemMaxUse=64M
SyncIntervalSec=10s
"""

# path -> (mode, content)
TREE_FILES: dict[str, tuple[int, str]] = {
    "usr/local/lib/skerry-lab/make-writable": (0o755, _MAKE_WRITABLE),
    "etc/systemd/system/skerry-lab-early.service": (0o644, _EARLY_UNIT),
    "etc/systemd/system/systemd-udev-trigger.service.d/lab.conf": (0o644, _UDEV_TRIGGER),
    "etc/systemd/journald.conf.d/lab.conf": (0o644, _JOURNAL),
}

# path -> target
TREE_LINKS: dict[str, str] = {
    "etc/systemd/system/sysinit.target.wants/skerry-lab-early.service": (
        "../skerry-lab-early.service"
    ),
    "etc/systemd/system/multi-user.target.wants/systemd-networkd.service": (
        "/usr/lib/systemd/system/systemd-networkd.service"
    ),
    "etc/systemd/system/default.target": "/usr/lib/systemd/system/multi-user.target",
    # These would set values of the whole computer.
    "etc/sysctl.d/10-coredump-debian.conf": "/dev/null",
    "etc/sysctl.d/50-pid-max.conf": "/dev/null",
}

# Units that act on the computer below, need a network elsewhere, or only print to a console.
MASKED_UNITS = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "getty@tty1.service",
    "systemd-pstore.service",
)


def host_files(
    *, name: str, machine_id: str, address: IPv4Address, network: IPv4Network, gateway: IPv4Address
) -> dict[str, tuple[int, str]]:
    """Files of one host: path -> (mode, content). There is no default route, on purpose."""
    interface = (
        "[Match]\nName=host0\n\n[Network]\n"
        f"Address={address}/{network.prefixlen}\n"
        "DHCP=no\nLinkLocalAddressing=no\nLLDP=no\nEmitLLDP=no\nIPv6AcceptRA=no\n"
    )
    return {
        "etc/hostname": (0o644, f"{name}\n"),
        "etc/machine-id": (0o444, f"{machine_id}\n"),
        "etc/hosts": (0o644, f"127.0.0.1 localhost\n::1 localhost\n{address} {name}\n"),
        "etc/resolv.conf": (0o644, f"nameserver {gateway}\noptions timeout:1 attempts:1\n"),
        # The number makes it win over the distribution's 80-container-host0.network.
        "etc/systemd/network/10-lab.network": (0o644, interface),
    }
