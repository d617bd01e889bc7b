"""Leaving a host without trace: the cluster first, then the agent itself.

The order makes it repeatable: as long as anything of the cluster is left, the agent's own files
are too, and the same command goes on.
"""

from __future__ import annotations

from skerry.agent import paths, trial
from skerry.agent.kube.engine import KubeEngine
from skerry.agent.mounts import mount_points, remove_folder
from skerry.lib.files import Root
from skerry.lib.proc import Runner
from skerry.plan.steps import Reset

INSTALLED = "/opt/skerry"


async def remove_agent(root: Root, runner: Runner, engine: KubeEngine) -> None:
    """Stop the agent, reset what it made, and remove its files. Raises SkerryError."""
    # A trial that is still open ends here, or its watchdog would start the agent again.
    root.remove(paths.TRIAL)
    await trial.clear(root, runner)
    await runner.run(
        ["systemctl", "disable", "--now", paths.AGENT_UNIT], timeout_s=120, check=False
    )
    await engine.perform(Reset(), None)
    root.remove(f"{paths.UNITS}/{paths.AGENT_UNIT}")
    await runner.run(["systemctl", "daemon-reload"], timeout_s=60, check=False)
    await runner.run(["systemctl", "reset-failed", paths.AGENT_UNIT], timeout_s=60, check=False)
    root.remove(paths.COMMAND)
    root.remove(paths.RUN)
    remove_folder(root, paths.STATE, frozenset(mount_points(root)))
    root.remove(INSTALLED)
