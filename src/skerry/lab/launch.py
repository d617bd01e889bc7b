"""The command lines that start a container host and enter it; pure functions.

The launcher is a shell script: it moves itself into the host's control groups, mounts the overlay
in a mount namespace of its own (so that a crash leaves no mount behind), and runs systemd-nspawn,
again after each reboot from inside.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skerry.lab.facts import MachineFacts
from skerry.lab.names import machine_name

# Folders that overlayfs cannot carry: containerd, kubelet and etcd want a plain file system.
STATE_FOLDERS = ("skerry", "kubelet", "etcd")
_REBOOT_CODE = 133
_HOST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class HostSpec:
    """What a host is made of. `folder` holds its disks, `tree` is shared and never written."""

    run: str
    name: str
    folder: Path
    tree: Path
    bridge: str

    @property
    def machine(self) -> str:
        return machine_name(self.run, self.name)

    @property
    def root(self) -> Path:
        return self.folder / "root"


def nspawn_argv(spec: HostSpec, facts: MachineFacts) -> list[str]:
    """The container manager's command line."""
    argv = [
        "systemd-nspawn",
        "--quiet",
        "--settings=no",
        "--boot",
        "--register=no",
        f"--machine={spec.machine}",
        f"--hostname={spec.name}",
        f"--directory={spec.root}",
        f"--network-bridge={spec.bridge}",
        "--capability=all",
        # The computer's clock is not the host's to set.
        "--drop-capability=CAP_SYS_TIME",
        "--system-call-filter=@keyring bpf perf_event_open @module",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--console=read-only",
        "--bind=/dev/kmsg",
    ]
    argv += [f"--bind={spec.folder}/state/{name}:/var/lib/{name}" for name in STATE_FOLDERS]
    if not facts.runs_systemd:
        argv.append("--keep-unit")  # There is nobody to ask for a scope.
    if facts.cgroup_version == 1:
        # systemd 256 and later refuse to boot on cgroup v1 without this.
        argv.append("--setenv=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1")
    return argv


def nspawn_env(facts: MachineFacts) -> dict[str, str]:
    """Settings that systemd-nspawn takes only from its environment."""
    env = {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1"}
    if facts.cgroup_version == 1:
        env["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "0"
    return env


def launch_script(spec: HostSpec, facts: MachineFacts, cgroup_procs: Sequence[Path]) -> str:
    """The launcher. Its process id lies in `launcher.pid`; it ends when the host is off."""
    folder = spec.folder
    exports = "".join(f"export {k}={shlex.quote(v)}\n" for k, v in nspawn_env(facts).items())
    moves = "".join(f"echo $$ > {shlex.quote(str(place))}\n" for place in cgroup_procs)
    overlay = f"lowerdir={spec.tree},upperdir={folder}/upper,workdir={folder}/work"
    return (
        "#!/bin/sh\n"
        "# Started by the lab; runs until the host is off.\n"
        "set -eu\n"
        'if [ "${1:-}" != inside ]; then\n'
        f"echo $$ > {shlex.quote(str(folder / 'launcher.pid'))}\n"
        f"{moves}"
        'exec unshare --mount --propagation slave -- "$0" inside\n'
        "fi\n"
        f"{exports}"
        f"mount -t overlay {shlex.quote(spec.machine)} -o {shlex.quote(overlay)}"
        f" {shlex.quote(str(spec.root))}\n"
        f"code={_REBOOT_CODE}\n"
        f'while [ "$code" -eq {_REBOOT_CODE} ]; do\n'
        "code=0\n"
        f"{shlex.join(nspawn_argv(spec, facts))} || code=$?\n"
        "done\n"
        'exit "$code"\n'
    )


def enter_argv(
    leader: int, argv: Sequence[str], *, cgroup_procs: Sequence[str], drop_env: Collection[str]
) -> list[str]:
    """Run `argv` inside the container whose first process is `leader`.

    The command joins the control groups of the host's first process, so that nothing it starts
    counts for this computer. `drop_env` names variables of ours that the host must not see; the
    values of wanted ones pass through the environment, never through argv.
    """
    moves = "".join(f"echo $$ > {shlex.quote(place)} || :; " for place in cgroup_procs)
    dropped = [word for name in sorted(drop_env) for word in ("-u", name)]
    return [
        "sh",
        "-c",
        moves + 'exec "$@"',
        "sh",
        "env",
        *dropped,
        # nsenter keeps our capabilities, and the container's own have none for the clock.
        "setpriv",
        "--bounding-set=-sys_time",
        "nsenter",
        f"--target={leader}",
        "--mount",
        "--uts",
        "--ipc",
        "--net",
        "--pid",
        "--cgroup",
        f"--root=/proc/{leader}/root",
        f"--wd=/proc/{leader}/root",
        "--",
        *argv,
    ]


def inside_env(extra: Mapping[str, str] | None) -> dict[str, str]:
    """The environment of a command inside, like that of a unit of systemd."""
    return {"PATH": _HOST_PATH, "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb", **(extra or {})}


def cgroup_places(
    leader_cgroups: str, facts: MachineFacts, mount: str = "/sys/fs/cgroup"
) -> list[str]:
    """`cgroup.procs` of each group in the text of /proc/LEADER/cgroup."""
    places = []
    for line in leader_cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if facts.cgroup_version == 2:
            folder = mount
        elif controllers:
            folder = f"{mount}/{controllers.removeprefix('name=')}"
        else:
            folder = f"{mount}/unified"
        places.append(f"{folder}{path.rstrip('/')}/cgroup.procs")
    return places
