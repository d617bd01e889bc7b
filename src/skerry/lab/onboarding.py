"""The steps from built artifacts to a running cluster, each alone: for `./dev up` and lab tests.

All go through the manager's public API and the install line, as a person's would. What is there
already is left as it is, so every step can be done again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from skerry.builder.layout import BuiltArtifact
from skerry.client.api import Api
from skerry.client.blobs import upload_blob
from skerry.client.errors import NotFound
from skerry.lab.errors import LabError
from skerry.lab.hosts import ContainerHost
from skerry.lib import pki
from skerry.lib.digest import canonical_json, hex_of, sha256
from skerry.lib.oci import Layout
from skerry.model.kinds import KINDS, Scope
from skerry.model.meta import DEFAULT_PROJECT
from skerry.wire import envelope as env

Document = dict[str, Any]
Tell = Callable[[str], None]

_INSTALL_LIMIT_S = 300.0
_POLL_S = 1.0


def release_key(data: Path) -> env.SigningKey:
    """The development release key in a manager's data folder."""
    place = data / "keys" / "release.key"
    try:
        return env.SigningKey(env.KeyRole.RELEASE, pki.load_signing_key(place.read_bytes()))
    except FileNotFoundError as exc:
        raise LabError(
            f"there is no development release key at {place}",
            hint="sign with the release key that this manager was given",
        ) from exc


def artifact_name(built: BuiltArtifact) -> str:
    """The name of the Artifact object, a DNS label."""
    return f"{built.name}-{built.version}-{built.architecture}".lower().replace(".", "-")


async def find(
    api: Api, kind: str, name: str, *, project: str = DEFAULT_PROJECT
) -> Document | None:
    """An object, or None when there is none."""
    try:
        return await api.get(KINDS[kind], _project(kind, project), name)
    except NotFound:
        return None


async def ensure(api: Api, document: Document, *, project: str = DEFAULT_PROJECT) -> bool:
    """Create the object unless there is one of that name; whether it was created.

    A profile also gets its version when it does not have it yet.
    """
    kind, name = document["kind"], document["metadata"]["name"]
    there = await find(api, kind, name, project=project)
    if there is not None and not _new_version(there, document):
        return False
    await api.apply(KINDS[kind], _project(kind, project), document)
    return True


async def push_artifact(api: Api, built: BuiltArtifact, *, key: env.SigningKey) -> str:
    """Sign an artifact, bring its content to the manager and name it there; the object's name."""
    name = artifact_name(built)
    there = await find(api, "Artifact", name)
    if there is not None and there["status"].get("complete"):
        return name
    pointer, manifest = Layout.open(built.path).only_manifest()
    for part in (manifest.config, *manifest.layers, pointer):
        await upload_blob(api, part.digest, built.path / "blobs" / "sha256" / hex_of(part.digest))
    signed = env.sign(env.ARTIFACT, canonical_json(built.statement), [key]).encode()
    with tempfile.NamedTemporaryFile() as file:
        file.write(signed)
        file.flush()
        await upload_blob(api, sha256(signed), Path(file.name))
    await ensure(
        api,
        {
            "apiVersion": "skerry.dev/v1",
            "kind": "Artifact",
            "metadata": {"name": name},
            "spec": {
                "type": built.type,
                "version": built.version,
                "architecture": built.architecture,
                "digest": built.digest,
                "envelopeDigest": sha256(signed),
                "sizeBytes": built.size_bytes,
            },
        },
    )
    return name


async def push_artifacts(
    api: Api, artifacts: Sequence[BuiltArtifact], *, key: env.SigningKey
) -> list[str]:
    """Push several; names of the Artifact objects."""
    return [await push_artifact(api, built, key=key) for built in artifacts]


async def new_token(
    api: Api, name: str, spec: Mapping[str, Any], *, project: str = DEFAULT_PROJECT
) -> Document:
    """A fresh registration token in the place of one that may be there; the answer holds
    `secret` and `install`, which are shown this one time only."""
    kind = KINDS["RegistrationToken"]
    if await find(api, kind.name, name, project=project) is not None:
        await api.delete(kind, project, name)
    document = {
        "apiVersion": "skerry.dev/v1",
        "kind": kind.name,
        "metadata": {"name": name},
        "spec": dict(spec),
    }
    return await api.apply(kind, project, document, revision=0)


async def install_agent(host: ContainerHost, line: str) -> None:
    """Paste the install line on the host. Raises CommandFailed."""
    # By standard input, because the line holds the token and arguments can be read by everybody.
    await host.run(["sh"], stdin=f"{line}\n".encode(), timeout_s=_INSTALL_LIMIT_S)


async def wait_for_host(
    api: Api, name: str, *, limit_s: float = 180, project: str = DEFAULT_PROJECT
) -> Document:
    """The host once it is approved and has reported. Raises LabError after the limit."""
    deadline = api.clock.monotonic() + limit_s
    while True:
        host = await find(api, "Host", name, project=project)
        if host is not None and host["spec"]["approval"] == "approved" and _reported(host):
            return host
        if api.clock.monotonic() > deadline:
            state = host["status"].get("phase") if host else "unknown"
            raise LabError(
                f"host {name} did not register within {limit_s:g} s (phase {state})",
                hint=f"skerry lab shell {name}, then: journalctl -u skerry-agent",
            )
        await api.clock.sleep(_POLL_S)


async def wait_for_cluster(
    api: Api,
    name: str,
    *,
    limit_s: float = 900,
    project: str = DEFAULT_PROJECT,
    tell: Tell | None = None,
) -> Document:
    """The cluster once it is Running; `tell` hears each change. Raises LabError after the limit."""
    deadline = api.clock.monotonic() + limit_s
    before = ""
    while True:
        cluster = await find(api, "Cluster", name, project=project)
        now = "not created" if cluster is None else _state(cluster)
        if now != before and tell is not None:
            tell(f"cluster {name} {now}")
        before = now
        if cluster is not None and cluster["status"].get("phase") == "Running":
            return cluster
        if api.clock.monotonic() > deadline:
            raise LabError(
                f"cluster {name} is not Running after {limit_s:g} s: {now}",
                hint=f"skerry describe cluster {name}",
            )
        await api.clock.sleep(_POLL_S)


def _state(cluster: Document) -> str:
    """Phase and, until it runs, what it waits for."""
    status = cluster["status"]
    phase = str(status.get("phase", "Pending"))
    conditions: list[Document] = status.get("conditions", [])
    ready = next((item for item in conditions if item["type"] == "Ready"), {})
    why = ready.get("message", "")
    return f"{phase}: {why}" if why and phase != "Running" else phase


def _reported(host: Document) -> bool:
    return bool(host["status"].get("statusDigest"))


def _new_version(there: Document, document: Document) -> bool:
    if document["kind"] != "ClusterProfile":
        return False
    known = {item["version"] for item in there["status"].get("revisions", ())}
    return document["spec"]["version"] not in known


def _project(kind: str, project: str) -> str:
    return project if KINDS[kind].scope is Scope.PROJECT else ""
