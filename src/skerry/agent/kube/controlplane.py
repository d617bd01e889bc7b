"""The control plane by kubeadm's phases: make it, replace it, confirm it, stop it.

`kubeadm upgrade apply` is not used: see docs/adr/0002. Every phase is idempotent, so a step that
was cut is simply done again. kubeadm is always the given release's, by absolute path.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import yaml
from cryptography import x509

from skerry.agent.kube import gate, places, render, runtime
from skerry.agent.kube.engine import EngineFailed, Reason
from skerry.agent.kube.record import NO_PROXIES, Doors
from skerry.agent.kube.surroundings import listening
from skerry.lib.errors import SkerryError
from skerry.lib.proc import CommandFailed, CommandTimedOut
from skerry.plan.desired import DesiredCluster
from skerry.plan.kubernetes import read_values

_STOP_S = 60.0
_KILL_AFTER_S = 25.0


async def init(doors: Doors, cluster: DesiredCluster, *, version: str) -> None:
    """Certificates, credentials, manifests and kubelet of a new cluster. It is usable after
    its gate, and the cluster's own once confirmed."""
    config = write_config(doors, cluster, version=version)
    if not doors.root.exists(places.manifest("kube-apiserver")):
        await _preflight(doors, version, config)
    for phase in (
        ("certs", "all"),
        ("kubeconfig", "all"),
        ("etcd", "local"),
        ("control-plane", "all"),
        ("kubelet-start",),
    ):
        await kubeadm(doors, version, "init", "phase", *phase, "--config", config)
    doors.root.mkdir(places.ETCD, mode=0o700)
    await runtime.switch_kubelet(doors, version)


async def replace(doors: Doors, cluster: DesiredCluster, *, version: str) -> None:
    """Write the manifests anew; the kubelet restarts what differs.

    etcd first, and the others only once it answers: an API server that starts before its etcd
    ends, and the kubelet then waits longer and longer before it starts it again.
    """
    config = write_config(doors, cluster, version=version)
    await _server_certificate(doors, cluster, version, config)
    for phase, components in (
        (("etcd", "local"), ("etcd",)),
        (("control-plane", "all"), places.CONTROL_PLANE),
    ):
        before = {name: doors.text(places.manifest(name)) for name in components}
        running = {name: await _running(doors, name) for name in components}
        await kubeadm(doors, version, "init", "phase", *phase, "--config", config)
        changed = [name for name in components if doors.text(places.manifest(name)) != before[name]]
        await _wait_gone(doors, {name: running[name] for name in changed})
        if changed and phase[0] == "etcd":
            await _wait_etcd(doors)


async def _wait_gone(doors: Doors, old: dict[str, frozenset[str]]) -> None:
    """Wait until the containers of replaced manifests have ended, so that whatever answers
    from then on is the new one."""
    end = doors.clock.monotonic() + _STOP_S
    while left := [name for name, ids in old.items() if ids & await _running(doors, name)]:
        if doors.clock.monotonic() >= end or not await doors.active(places.KUBELET_UNIT):
            await kill_pods(doors, left)
            return
        await doors.clock.sleep(0.5)


async def _wait_etcd(doors: Doors) -> None:
    end = doors.clock.monotonic() + _STOP_S
    while await doors.active(places.KUBELET_UNIT):
        told = await gate.component_lacks(doors, "etcd")
        if not told or doors.clock.monotonic() >= end:
            return  # The gate that follows says what is wrong, if anything is.
        await doors.clock.sleep(0.5)


async def _running(doors: Doors, component: str) -> frozenset[str]:
    """Running containers of a static pod."""
    tasks = await doors.ctr("tasks", "ls", "-q", check=False)
    return frozenset(await _containers(doors, component)) & frozenset(tasks.stdout.split())


async def _containers(doors: Doors, component: str) -> list[str]:
    selector = f'labels."io.kubernetes.pod.name"=={component}-{doors.record().node_name}'
    answer = await doors.ctr("containers", "ls", "-q", selector, check=False)
    return answer.stdout.split()


async def switch_kubelet(doors: Doors, cluster: DesiredCluster, *, version: str) -> None:
    """Write the kubelet's configuration with a release's kubeadm and move to its kubelet."""
    config = write_config(doors, cluster, version=version)
    await kubeadm(doors, version, "init", "phase", "kubelet-start", "--config", config)
    await runtime.switch_kubelet(doors, version)


async def confirm(
    doors: Doors, cluster: DesiredCluster, *, version: str, config_digest: str
) -> None:
    """Store the configuration in the cluster, bring its core add-ons up to date, remember the
    version as confirmed and let everyone in. What comes after cannot be undone."""
    config = write_config(doors, cluster, version=version)
    for phase in (
        ("upload-config", "all"),
        ("mark-control-plane",),
        ("bootstrap-token",),
        ("addon", "all"),
    ):
        extra = ("--skip-token-print",) if phase == ("bootstrap-token",) else ()
        await kubeadm(doors, version, "init", "phase", *phase, "--config", config, *extra)
    await kubeadm(doors, version, "init", "phase", "kubelet-finalize", "all", "--config", config)
    doors.remember(initialised=True, version=version, config_digest=config_digest)
    # The phase above also leaves a token to join with. Join material is made on demand only.
    await doors.kubectl(
        *("--namespace", "kube-system", "delete", "secret", "--ignore-not-found"),
        *("--field-selector", "type=bootstrap.kubernetes.io/token"),
    )
    await open_api(doors)


async def stop(doors: Doors) -> None:
    """Stop API server, controllers and scheduler; etcd and all workloads keep running."""
    for component in places.CONTROL_PLANE:
        doors.root.remove(places.manifest(component))
    began = doors.clock.monotonic()
    while listening(doors).intersection(places.CONTROL_PLANE_PORTS):
        waited = doors.clock.monotonic() - began
        if waited >= _STOP_S:
            raise EngineFailed(
                Reason.CONTROL_PLANE_NOT_READY,
                f"the API server did not stop within {_STOP_S:g} s",
            )
        if waited >= _KILL_AFTER_S or not await doors.active(places.KUBELET_UNIT):
            await kill_pods(doors, places.CONTROL_PLANE)
        await doors.clock.sleep(0.5)


async def kill_pods(doors: Doors, components: Sequence[str]) -> None:
    """Kill the containers of static pods; a running kubelet would start them again."""
    for component in components:
        for container in await _containers(doors, component):
            await doors.ctr("tasks", "kill", "-s", "SIGKILL", "-a", container, check=False)


async def stop_killed(doors: Doors) -> None:
    """Kill the whole control plane, etcd included, and see that it is gone. The kubelet must
    have been stopped before."""
    end = doors.clock.monotonic() + _STOP_S
    ports = {*places.CONTROL_PLANE_PORTS, 2379, 2380}
    await kill_pods(doors, (*places.CONTROL_PLANE, "etcd"))
    while listening(doors).intersection(ports):
        if doors.clock.monotonic() >= end:
            raise EngineFailed(
                Reason.RESTORE_FAILED, f"the control plane did not stop within {_STOP_S:g} s"
            )
        await doors.clock.sleep(0.5)
        await kill_pods(doors, (*places.CONTROL_PLANE, "etcd"))


async def fence(doors: Doors) -> None:
    """Let only this host reach the API server, also after a reboot."""
    doors.root.write(places.FENCE, render.fence(doors.record().address).encode())
    await doors.run("nft", "-f", doors.root.host_path(places.FENCE))


async def open_api(doors: Doors) -> None:
    """Take the fence away."""
    doors.root.remove(places.FENCE)
    await doors.run("nft", "add", "table", "inet", "skerry_fence")
    await doors.run("nft", "delete", "table", "inet", "skerry_fence")


def write_config(doors: Doors, cluster: DesiredCluster, *, version: str) -> str:
    """Write kubeadm's configuration; its path for kubeadm."""
    text = render.kubeadm_config(cluster, read_values(cluster.values), version=version)
    if doors.text(places.KUBEADM_CONFIG) != text:
        doors.root.write(places.KUBEADM_CONFIG, text.encode(), mode=0o600)
    return doors.root.host_path(places.KUBEADM_CONFIG)


async def kubeadm(doors: Doors, version: str, *words: str, timeout_s: float = 150) -> str:
    """Run a release's kubeadm; its standard output. Raises EngineFailed."""
    program = doors.root.host_path(places.program(version, "kubeadm"))
    path = f"{os.path.dirname(program)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
    try:
        answer = await doors.run(
            program, *words, timeout_s=timeout_s, env={**NO_PROXIES, "PATH": path}
        )
    except (CommandFailed, CommandTimedOut) as exc:
        raise _kubeadm_failed(words, exc) from exc
    return answer.stdout


def _kubeadm_failed(words: Sequence[str], exc: SkerryError) -> EngineFailed:
    output = exc.result.stderr if isinstance(exc, CommandFailed) else exc.message
    refused = [line.strip() for line in output.splitlines() if "[ERROR " in line]
    if refused:
        return EngineFailed(
            Reason.PREFLIGHT_REFUSED,
            f"kubeadm refuses this host: {'; '.join(refused)[:1200]}",
            hint="put this right, or name the check in kubeadm.ignorePreflightErrors",
        )
    lines = [line for line in output.splitlines() if line.strip() and "stack trace" not in line]
    return EngineFailed(
        Reason.KUBEADM_FAILED,
        f"kubeadm {' '.join(words[:4])} failed: {' '.join(lines[-3:])[-800:]}",
        hint="it is tried again by itself",
    )


async def _preflight(doors: Doors, version: str, config: str) -> None:
    await kubeadm(doors, version, "init", "phase", "preflight", "--config", config)


async def _server_certificate(
    doors: Doors, cluster: DesiredCluster, version: str, config: str
) -> None:
    """Make the API server's certificate anew when it lacks a name that the values ask for."""
    api = read_values(cluster.values).cluster.get("apiServer", {})
    wanted = set(api.get("certSANs", ()))
    path = f"{places.PKI}/apiserver.crt"
    if not wanted or not doors.root.exists(path):
        return
    certificate = x509.load_pem_x509_certificate(doors.root.read(path))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    have = {str(name.value) for name in names}
    if wanted <= have:
        return
    doors.root.remove(path)
    doors.root.remove(f"{places.PKI}/apiserver.key")
    await kubeadm(doors, version, "init", "phase", "certs", "apiserver", "--config", config)


def restart_mark(doors: Doors, mark: str) -> None:
    """Write a mark into every control-plane manifest, so that the kubelet starts them anew."""
    for component in (*places.CONTROL_PLANE, "etcd"):
        path = places.manifest(component)
        document = yaml.safe_load(doors.root.read(path))
        notes = document.setdefault("metadata", {}).setdefault("annotations", {})
        if notes.get("skerry.dev/restarted") != mark:
            notes["skerry.dev/restarted"] = mark
            doors.root.write(path, yaml.safe_dump(document).encode(), mode=0o600)
