"""An agent whose name servers never answer: what it says, and whether it stays awake.

    python -m tests.integration.agent.lost FOLDER

Prints the reason, the longest time in which nothing else could run, and the status for people.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import anyio
import structlog

from skerry.agent.core import Parts, run_agent
from skerry.agent.identity import Identity
from skerry.agent.kube.fake import FakeKubeEngine
from skerry.agent.register import prepare
from skerry.agent.show import status_text
from skerry.agent.sync import load_status
from skerry.lib import pki
from skerry.lib.clock import SystemClock
from skerry.lib.files import DiskRoot
from skerry.lib.proc import FakeRunner


async def run(folder: str) -> None:
    root, clock = DiskRoot(folder), SystemClock()
    Path(folder).mkdir()
    authority = pki.new_authority("skerry", now=clock.now())
    identity = Identity(
        manager="https://manager.skerry-test.example:8443",
        authorities=(authority.certificate_pem,),
    )
    prepare(root, identity, token="t")
    longest = 0.0
    async with anyio.create_task_group() as tg:
        tg.start_soon(
            run_agent,
            Parts(
                root=root,
                runner=FakeRunner(),
                clock=clock,
                engine=lambda _: FakeKubeEngine(clock),
            ),
        )
        with anyio.fail_after(40):
            while (status := load_status(root)) is None:
                before = time.monotonic()
                await anyio.sleep(0.01)
                longest = max(longest, time.monotonic() - before)
        tg.cancel_scope.cancel()
    print(status.conditions[0].reason)
    print(longest)
    print(status_text(status))


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    anyio.run(run, sys.argv[1])
