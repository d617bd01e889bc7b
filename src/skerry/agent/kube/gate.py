"""Health: what must be true before a new control plane or kubelet counts as good.

A gate polls until everything holds at once and otherwise fails with what was missing last, so
that the message names the cause and not the time limit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import yaml

from skerry.agent.kube import places, pulls
from skerry.agent.kube.engine import EngineFailed, Reason
from skerry.agent.kube.record import Doors
from skerry.agent.kube.runtime import last_words
from skerry.lib.errors import SkerryError

_POLL_S = 1.0
_KUBELET_DOWN = "the kubelet does not run: "
_POD_LOGS = "/var/log/pods"


async def control_plane(doors: Doors, *, version: str, limit_s: float) -> None:
    """Wait for the control plane of a version. Raises EngineFailed (ControlPlaneNotReady)."""
    await _wait(
        doors,
        lambda: _control_plane_lacks(doors, version),
        what=f"the control plane {version}",
        reason=Reason.CONTROL_PLANE_NOT_READY,
        limit_s=limit_s,
    )


async def node(doors: Doors, *, version: str, limit_s: float, settle_s: float) -> None:
    """Wait for the node, then see that it stays. Raises EngineFailed (KubeletNotReady)."""
    began = await _restarts(doors)

    async def lacks() -> str:
        missing = await _node_lacks(doors, version)
        before = await _restarts(doors)
        if missing:
            ended = before - began
            words = await last_words(doors, places.KUBELET_UNIT) if ended > 0 else ""
            return f"the kubelet ended {ended} times: {words}" if ended > 0 else missing
        if not settle_s:
            return ""  # nothing to wait for, so nothing to look at again
        await doors.clock.sleep(settle_s)
        if await _restarts(doors) != before:
            return "the kubelet ended: " + await last_words(doors, places.KUBELET_UNIT)
        return await _node_lacks(doors, version)

    await _wait(
        doors,
        lacks,
        what=f"the node with kubelet {version}",
        reason=Reason.KUBELET_NOT_READY,
        limit_s=limit_s,
    )


async def api_ready(doors: Doors) -> bool:
    """Whether the API server says that it is ready."""
    return (await doors.ask("/readyz")).ok


async def this_node(doors: Doors) -> dict[str, Any]:
    """The node object; empty when it cannot be had."""
    answer = await doors.ask(f"/api/v1/nodes/{doors.record().node_name}")
    return answer.json() if answer.ok else {}


def is_ready(thing: dict[str, Any]) -> bool:
    """Whether a node or pod has the condition Ready."""
    conditions = thing.get("status", {}).get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def kubelet_version(node: dict[str, Any]) -> str:
    """Version that the node's kubelet reports, without a leading v."""
    text = node.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", "")
    return str(text).removeprefix("v")


async def _control_plane_lacks(doors: Doors, version: str) -> str:
    """Manifests of the version, and every component answering on the port of its own probe."""
    for component in places.CONTROL_PLANE:
        image = manifest_image(doors, component)
        if not image.endswith(f":v{version}"):
            return f"{component} is {image or 'stopped'}"
    if not await doors.active(places.KUBELET_UNIT):
        return _KUBELET_DOWN + await last_words(doors, places.KUBELET_UNIT)
    answer = await doors.ask("/version")
    if not answer.ok:
        return (
            f"the API server does not answer ({answer.problem}){last_log(doors, 'kube-apiserver')}"
        )
    found = str(answer.json().get("gitVersion", "")).removeprefix("v")
    if found != version:
        return f"the API server answers as {found}"
    if not await api_ready(doors):
        return "the API server is not ready"
    for component in ("kube-controller-manager", "kube-scheduler", "etcd"):
        told = await component_lacks(doors, component)
        if told:
            return told
    return ""


async def component_lacks(doors: Doors, component: str) -> str:
    """Ask a static pod's own probe; empty when it is well."""
    url = _probe_url(doors.text(places.manifest(component)))
    if not url:
        return f"{component} is stopped"
    told = await doors.probe(url)
    return f"{component} does not answer ({told}){last_log(doors, component)}" if told else ""


def manifest_image(doors: Doors, component: str) -> str:
    """Image that a static pod's manifest asks for; empty without a manifest."""
    text = doors.text(places.manifest(component))
    return str(yaml.safe_load(text)["spec"]["containers"][0]["image"]) if text else ""


def last_log(doors: Doors, component: str) -> str:
    """The last line that a static pod wrote within the last minute, ready to be appended."""
    prefix = f"kube-system_{component}-{doors.record().node_name}_"
    last: list[str] = []
    for pod in doors.root.list(_POD_LOGS):
        folder = f"{_POD_LOGS}/{pod}/{component}"
        logs = [name for name in doors.root.list(folder) if name.split(".")[0].isdigit()]
        if not pod.startswith(prefix) or not logs:
            continue
        newest = max(logs, key=lambda name: int(name.split(".")[0]))
        tail = b""
        for chunk in doors.root.read_chunks(f"{folder}/{newest}"):
            tail = (tail + chunk)[-4096:]
        last += tail.decode(errors="replace").splitlines()[-1:]
    if not last:
        return ""
    # A line is "TIME stderr F TEXT"; times sort as text.
    words = max(last).split(" ", 3)
    recent = (doors.clock.now() - timedelta(minutes=1)).isoformat()[:19]
    return f", its last words: {words[-1][-300:]}" if words[0][:19] >= recent else ""


def _probe_url(manifest: str) -> str:
    if not manifest:
        return ""
    container = yaml.safe_load(manifest)["spec"]["containers"][0]
    probe = container.get("readinessProbe") or container["livenessProbe"]
    get = probe["httpGet"]
    ports = {item.get("name"): item["containerPort"] for item in container.get("ports", [])}
    port = ports.get(get["port"], get["port"])
    host = get.get("host") or "127.0.0.1"
    shown = f"[{host}]" if ":" in host else host
    return f"{get.get('scheme', 'HTTP').lower()}://{shown}:{port}{get['path']}"


async def _node_lacks(doors: Doors, version: str) -> str:
    if not await doors.active(places.KUBELET_UNIT):
        return _KUBELET_DOWN + await last_words(doors, places.KUBELET_UNIT)
    found = await this_node(doors)
    if not found:
        return "the node is not registered"
    running = kubelet_version(found)
    if running != version:
        return f"the kubelet reports version {running}"
    if not is_ready(found):
        reasons = [
            item.get("message", "")
            for item in found.get("status", {}).get("conditions", [])
            if item["type"] == "Ready"
        ]
        return f"the node is not Ready: {' '.join(reasons)[:300]}"
    return await _kubelet_lacks(doors)


async def _kubelet_lacks(doors: Doors) -> str:
    """Ask the kubelet's own health port, unless the profile turned it off.

    Not through the API server: its way to the kubelet is only granted by the confirmation.
    """
    config = yaml.safe_load(doors.text(places.KUBELET_CONFIG)) or {}
    port = config.get("healthzPort", 10248)
    if not port:
        return ""
    host = config.get("healthzBindAddress") or "127.0.0.1"
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104  # compared only
    told = await doors.probe(
        f"http://[{host}]:{port}/healthz" if ":" in host else f"http://{host}:{port}/healthz"
    )
    return f"the kubelet is not healthy ({told})" if told else ""


async def _restarts(doors: Doors) -> int:
    """How often systemd started the kubelet again by itself."""
    answer = await doors.systemctl(
        "show", "--property", "NRestarts", "--value", places.KUBELET_UNIT, check=False
    )
    text = answer.stdout.strip()
    return int(text) if text.isdigit() else 0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a pod does not run. `reason` is set when one of `Reason` says it best."""

    message: str = ""
    reason: str = ""


def pod_trouble(pod: dict[str, Any]) -> Trouble:
    """Why a pod's containers do not run; an empty message when they do."""
    status = pod.get("status", {})
    every = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    for container in every:
        state = container.get("state", {})
        waiting = state.get("waiting", {})
        reason = waiting.get("reason", "")
        if reason and reason not in ("ContainerCreating", "PodInitializing"):
            image = container.get("image", "")
            if reason in pulls.REASONS:
                told = pulls.explain(image, reason, waiting.get("message", ""))
                return Trouble(f": {told}", Reason.IMAGE_PULL_FAILED.value)
            last = container.get("lastState", {}).get("terminated", {})
            detail = f", exit code {last['exitCode']}" if "exitCode" in last else ""
            return Trouble(f": {reason} of image {image}{detail}")
    for item in status.get("conditions", []):
        if item["type"] == "PodScheduled" and item["status"] == "False":
            return Trouble(f": {item.get('reason', '')}: {item.get('message', '')}"[:300])
    return Trouble()


async def _wait(
    doors: Doors,
    lacks: Callable[[], Awaitable[str]],
    *,
    what: str,
    reason: Reason,
    limit_s: float,
) -> None:
    end = doors.clock.monotonic() + limit_s
    while True:
        try:
            missing = await lacks()
        except SkerryError as exc:
            missing = exc.message
        if not missing:
            return
        if doors.clock.monotonic() >= end:
            raise EngineFailed(
                Reason.KUBELET_NOT_READY if missing.startswith(_KUBELET_DOWN) else reason,
                f"{what} was not ready within {limit_s:g} s: {missing}",
                retryable=False,
            )
        await doors.clock.sleep(_POLL_S)
