"""Secrets planted in everything that a host is given come out nowhere on it.

They may lie only in files that root alone reads, and travel to programs by input or environment.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from tests.integration.agent.agents import Agent
from tests.integration.agent.stacks import push_profile, push_release, put_cluster
from tests.integration.sim.conftest import Manager

from skerry.agent import paths
from skerry.lib.files import DiskRoot
from skerry.lib.proc import Result
from skerry.sim.machines import MachineRunner

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

PLANTED = "planted-4hT9-secret"
VALUES = """
registries:
  hosts:
    registry.test:
      username: till
      password: ${{ secret.registry.password }}
"""
MANIFEST = """
apiVersion: v1
kind: Secret
metadata: {name: app}
stringData: {key: "${{ secret.app.key }}", text: "${{ words }}"}
"""


class Ear(MachineRunner):
    """Answers as the machine does and writes down what was run."""

    def __init__(self, machine: Any, heard: list[tuple[str, ...]]) -> None:
        object.__setattr__(self, "machine", machine)
        object.__setattr__(self, "heard", heard)

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        check: bool = True,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Result:
        self.heard.append(tuple(argv))  # type: ignore[attr-defined]
        return await super().run(
            argv, timeout_s=timeout_s, check=check, stdin=stdin, env=env, cwd=cwd
        )


def places_of(root: DiskRoot, secret: str) -> dict[str, int]:
    """Every file below the root that holds the secret, with its mode."""
    base = Path(root.base)
    return {
        f"/{path.relative_to(base)}": stat.S_IMODE(path.stat().st_mode)
        for path in base.rglob("*")
        if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes()
    }


async def test_planted_secrets_come_out_nowhere_on_a_host(
    manager: Manager, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    for name, data in (
        ("registry", {"password": f"{PLANTED}-registry"}),
        ("app", {"key": f"{PLANTED}-app"}),
    ):
        await manager.apply({"kind": "Secret", "metadata": {"name": name}, "spec": {"data": data}})
    await push_release(manager, "1.36.3")
    await push_profile(
        manager,
        "1.0.0",
        kubernetes="1.36.3",
        values=VALUES,
        layers=[{"name": "app", "type": "addon", "manifests": MANIFEST}],
        variables=[{"name": "words", "default": "hello"}],
    )
    token = await manager.token(autoApprove=True)
    disk = DiskRoot(str(tmp_path / "host"))
    Path(disk.base).mkdir()
    heard: list[tuple[str, ...]] = []
    agent = Agent(manager.url, manager.authority_pem, token=token, root=disk)
    agent.runner = Ear(agent.runner.machine, heard)
    agent.register()
    assert places_of(disk, token) == {paths.TOKEN: 0o600}
    screens: list[str] = []
    with structlog.testing.capture_logs() as logs:
        async with agent.running():
            await agent.until_synced()
            name = agent.identity.host_name
            await put_cluster(manager, name, "1.0.0", variables={"words": f"{PLANTED}-variable"})
            await agent.until(
                lambda now: now.report is not None and now.report.kubernetes.node_ready
            )
            screens.append(agent.screen)
            # A secret that breaks the values it is put into, so that an error is made of it.
            broken = {"password": f"{PLANTED}-registry: [x"}
            await manager.apply(
                {"kind": "Secret", "metadata": {"name": "registry"}, "spec": {"data": broken}}
            )
            await agent.until_reason("ValuesInvalid")
            screens.append(agent.screen)
    host = next(item for item in await manager.list("Host"))
    events = await manager.centre.store.events(limit=1000)

    public = [
        *screens,
        str(logs),
        caplog.text,
        *capfd.readouterr(),
        str(heard),
        str(agent.status),
        msgspec.json.encode(host.status).decode(),
        str([item.event for item in events]),
    ]
    for secret in (PLANTED, token):
        for text in public:
            assert secret not in text
    assert heard, "something was run"
    assert places_of(disk, token) == {}, "the token was forgotten"
    found = places_of(disk, PLANTED)
    assert found, "the secrets did arrive"
    assert set(found.values()) == {0o600}, found
    assert all(path.startswith(paths.STATE) for path in found)
    for path in (paths.STATUS, paths.EVENTS):
        assert PLANTED not in (disk.read(path).decode() if disk.exists(path) else "")
