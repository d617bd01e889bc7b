"""The control plane by kubeadm's phases: make it, replace it, confirm it, stop it.

`kubeadm upgrade apply` is not used: see docs/adr/0002. Every phase is idempotent, so a step that
was cut is simply done again. kubeadm is always the given release's, by absolute path.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import yaml
from cryptography import x509

from skerry.agent.kube import places, render, runtime
from skerry.agent.kube.engine import EngineFailed, Reason
from skerry.agent.kube.record import NO_PROXIES, Doors
from skerry.lib.errors import SkerryError
from skerry.lib.proc import CommandFailed, CommandTimedOut
from skerry.plan.desired import DesiredCluster
from skerry.plan.kubernetes import read_values

_STOP_S = 60.0
_KILL_AFTER_S = 6.0
# Nothing is lost by a kill: etcd's log survives it, the others hold no state.
_GENTLE_S = 6.0


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
    """Write the manifests anew and start what differs.

    The kubelet is started anew for it: a running one waits for each old static pod in growing
    steps (10 s and more) before it starts the new one of the same name.
    """
    config = write_config(doors, cluster, version=version)
    await _server_certificate(doors, cluster, version, config)
    components = ("etcd", *places.CONTROL_PLANE)
    before = {name: doors.text(places.manifest(name)) for name in components}
    await kubeadm(doors, version, "init", "phase", "etcd", "local", "--config", config)
    await kubeadm(doors, version, "init", "phase", "control-plane", "all", "--config", config)
    changed = [name for name in components if doors.text(places.manifest(name)) != before[name]]
    if changed and await doors.active(places.KUBELET_UNIT):
        await doors.systemctl("stop", places.KUBELET_UNIT)
        await _end_pods(doors, changed)
        await doors.systemctl("start", places.KUBELET_UNIT)


async def _end_pods(doors: Doors, components: Sequence[str]) -> None:
    """Let containers end, and see that they are gone. The kubelet must not be running."""
    began = doors.clock.monotonic()
    signal = "SIGTERM"
    while left := [name for name in components if await _running(doors, name)]:
        waited = doors.clock.monotonic() - began
        if waited >= _STOP_S:
            raise EngineFailed(
                Reason.CONTROL_PLANE_NOT_READY,
                f"{', '.join(left)} did not stop within {_STOP_S:g} s",
            )
        await kill_pods(doors, left, signal=signal)
        signal = "SIGTERM" if waited < _GENTLE_S else "SIGKILL"
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
    """Stop API server, controllers and scheduler; etcd and all workloads keep running.

    Their processes are gone afterwards, not only their ports closed: an API server that drains
    its last requests could still write. It drains for up to a minute, so it is killed soon.
    """
    for component in places.CONTROL_PLANE:
        doors.root.remove(places.manifest(component))
    began = doors.clock.monotonic()
    while left := [name for name in places.CONTROL_PLANE if await _running(doors, name)]:
        waited = doors.clock.monotonic() - began
        if waited >= _STOP_S:
            raise EngineFailed(
                Reason.CONTROL_PLANE_NOT_READY,
                f"{', '.join(left)} did not stop within {_STOP_S:g} s",
            )
        if waited >= _KILL_AFTER_S or not await doors.active(places.KUBELET_UNIT):
            await kill_pods(doors, left)
        await doors.clock.sleep(0.5)


async def kill_pods(doors: Doors, components: Sequence[str], *, signal: str = "SIGKILL") -> None:
    """Signal the containers of static pods; a running kubelet would start them again."""
    for component in components:
        for container in await _running(doors, component):
            await doors.ctr("tasks", "kill", "-s", signal, "-a", container, check=False)


async def stop_all(doors: Doors) -> None:
    """Stop the kubelet and the whole control plane, etcd included."""
    await doors.systemctl("stop", places.KUBELET_UNIT, check=False)
    await _end_pods(doors, ("etcd", *places.CONTROL_PLANE))


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
