"""One full sample of each message and signed document, and their recordings by version.

A recording is what a released version really sent. `python -m tests.unit.wire.samples` records the
present version's; a released version's files are never written again, because they stand for
hosts and managers that run it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from skerry import __version__
from skerry.model.artifact import ArtifactRef
from skerry.model.inventory import Disk, Gpu, Inventory, Nic, Partition
from skerry.model.kinds import AgentState, KubernetesState, LayerState, Progress
from skerry.model.meta import Condition
from skerry.model.osstate import OsSlotState, OsState
from skerry.wire import bundle, messages
from skerry.wire import envelope as env

GOLDEN = Path(__file__).parent / "golden"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32

_PEM = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n"
_KEYS = (
    env.TrustedKey(role=env.KeyRole.CHANNEL, public_pem=_PEM),
    env.TrustedKey(role=env.KeyRole.RELEASE, public_pem=_PEM),
)
_CONDITION = Condition(
    type="Reconciled", status="False", reason="DiskFull", message="12 MiB left", since=AT
)


def _ref(kind: str, version: str) -> ArtifactRef:
    return ArtifactRef(
        name=f"{kind}-{version}",
        type=kind,
        version=version,
        architecture="amd64",
        digest=DIGEST,
        envelope_digest=OTHER,
        size_bytes=4711,
    )


_ASSIGNMENT = messages.Assignment(
    host_uid="uid-1",
    epoch=7,
    issued_at=AT,
    cluster=messages.ClusterAssignment(
        name="harbour",
        uid="c-1",
        role="control-plane",
        site="harbour",
        revisions=(messages.RevisionRef(profile="edge", version="1.0.0", digest=DIGEST),),
        variables={"greeting": "ahoy"},
        artifacts=(_ref("kubernetes", "1.36.3"),),
        secrets=(messages.SealedSecret(name="secret.db.key", sealed=b"sealed"),),
        retry_failed=1,
    ),
    agent=messages.AgentAssignment(
        version="0.2.0", artifact=_ref("agent", "0.2.0"), trial_s=300, retry_failed=2
    ),
    os=messages.OsAssignment(
        version="1.4.0", artifact=_ref("os", "1.4.0"), trial_s=600, retry_failed=2
    ),
    min_protocol=1,
)
_REPORT = messages.HostReport(
    agent_version="0.1.0",
    addresses=("192.0.2.7",),
    host_name="till-1",
    boot_id="boot-1",
    inventory=Inventory(
        architecture="amd64",
        cpu_model="Example",
        cpu_cores=2,
        memory_bytes=1 << 32,
        disks=(
            Disk(
                name="sda",
                size_bytes=1 << 36,
                model="Disk",
                vendor="V",
                rotational=True,
                partitions=(
                    Partition(
                        name="sda1",
                        size_bytes=1 << 30,
                        file_system="ext4",
                        mount_point="/",
                        free_bytes=1 << 20,
                    ),
                ),
            ),
        ),
        nics=(
            Nic(
                name="eth0",
                mac="02:00:00:00:00:01",
                addresses=("192.0.2.7",),
                is_default=True,
                state="up",
                subnet="192.0.2.0/24",
                gateway="192.0.2.1",
                dns=("192.0.2.1",),
            ),
        ),
        gpus=(Gpu(vendor="V", model="M", memory_bytes=1 << 30, addresses=("0000:00:02.0",)),),
        host_type="agent-mode",
        os_family="linux",
        os_name="Debian",
        os_version="13",
        kernel="6.12",
        tpm=True,
        tpm_version="2.0",
    ),
    kubernetes=KubernetesState(
        cluster="harbour",
        release="1.36.3",
        control_plane_version="1.36.3",
        kubelet_version="1.36.3",
        api_ready=True,
        node_ready=True,
        config_digest=DIGEST,
        certificates_expire_at=AT,
        last_snapshot_at=AT,
        layers=(LayerState(name="web", digest=OTHER, ready=True, message="ready"),),
        failed=(OTHER,),
    ),
    agent=AgentState(slot="b", on_trial=True, failed=(OTHER,)),
    os=OsState(
        engine="ab",
        slot="b",
        version="1.4.0",
        image=DIGEST,
        on_trial=True,
        recovery=True,
        slots=(OsSlotState(name="b", state="trial", version="1.4.0", image=DIGEST),),
        failed=(OTHER,),
        problems=("slot a does not verify",),
    ),
    progress=Progress(operation="upgrade", step="gate", index=3, total=9, started_at=AT),
    conditions=(_CONDITION,),
    labels={"tier": "shop"},
)

SAMPLES: dict[str, Any] = {
    "enrol-request": messages.EnrolRequest(
        agent_version="0.1.0",
        public_key=_PEM,
        sealing_key=_PEM,
        facts=messages.HostFacts(
            hardware_id="board-77",
            host_name="till-1",
            serial="S-1",
            macs=("02:00:00:00:00:01",),
            addresses=("192.0.2.7",),
            architecture="arm64",
        ),
        token="not-a-token",
        pairing_key="not-a-key",
        labels={"tier": "shop"},
        site="harbour",
    ),
    "enrol-state": messages.EnrolState(
        state="approved",
        reason="Approved",
        message="by admin",
        registration_code="ABCD-EFGH",
        retry_s=5,
        host_uid="uid-1",
        host_name="till-1",
        project="default",
        certificate="pem",
        trusted_keys=_KEYS,
        authorities=("pem",),
    ),
    "sync-request": messages.SyncRequest(
        have_epoch=7,
        have_digest=DIGEST,
        acknowledged_epoch=6,
        acknowledged_digest=OTHER,
        status_digest=DIGEST,
        report=_REPORT,
        events=(
            messages.HostEvent(
                sequence=3, at=AT, reason="AgentReturned", message="m", severity="warning"
            ),
        ),
        wait_s=25,
    ),
    "sync-answer": messages.SyncAnswer(
        status_digest=DIGEST,
        events_through=3,
        assignment=env.Envelope(
            payload_type=env.ASSIGNMENT,
            payload=b"{}",
            signatures=(env.Signature(keyid="k", role=env.KeyRole.CHANNEL, sig=b"s"),),
        ),
        want_report=True,
        next_s=5,
        now=AT,
        revoked=True,
        message="m",
    ),
    "assignment": _ASSIGNMENT,
    "artifact-statement": messages.ArtifactStatement(
        name="agent", type="agent", version="0.2.0", architecture="amd64", digest=DIGEST
    ),
    "renew-request": messages.RenewRequest(public_key=_PEM, proof=b"signature"),
    "renew-answer": messages.RenewAnswer(
        certificate="pem", trusted_keys=_KEYS, authorities=("pem",)
    ),
    "refusal": messages.Refusal(reason="Revoked", message="m", hint="h"),
    "bundle-description": bundle.BundleDescription(
        format=1, host_uid="uid-1", host_name="till-1", epoch=7
    ),
}


def recorded() -> list[tuple[str, str]]:
    """Every recording as (version, name)."""
    return sorted((path.parent.name, path.stem) for path in GOLDEN.glob("*/*.json"))


def read(version: str, name: str) -> bytes:
    """A recording as it was sent."""
    return (GOLDEN / version / f"{name}.json").read_bytes().strip()


def encoded(name: str) -> bytes:
    """The present version's sample as it is sent."""
    return msgspec.json.encode(SAMPLES[name])


if __name__ == "__main__":
    for sample in SAMPLES:
        place = GOLDEN / __version__ / f"{sample}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encoded(sample) + b"\n")
