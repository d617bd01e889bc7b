"""An acknowledged write survives kill -9 of the process that acknowledged it."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from skerry.manager.store.chain import verify_chain
from skerry.manager.store.protocol import Query

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

CHILD = Path(__file__).with_name("kill_child.py")


def write_until_killed(url: str, *, after_s: float) -> dict[str, int]:
    """What the child acknowledged before it was killed, name to revision."""
    process = subprocess.Popen(
        [sys.executable, str(CHILD), url], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline()]
        assert lines[0], "the child ended by itself"
        time.sleep(after_s)
    finally:
        process.kill()
        rest, _ = process.communicate(timeout=30)
    lines += rest.splitlines(keepends=True)
    whole = [line.split() for line in lines if line.endswith("\n")]
    return {name: int(revision) for name, revision in whole}


@pytest.mark.parametrize("rounds", [3, pytest.param(40, marks=pytest.mark.long)])
async def test_every_acknowledged_write_is_there_after_kill(backend: Any, rounds: int) -> None:
    chance = random.Random(rounds)
    acknowledged: dict[str, int] = {}
    for _ in range(rounds):
        acknowledged |= write_until_killed(backend.url, after_s=chance.uniform(0.02, 0.5))

    store = await backend.open()
    found: dict[str, int] = {}
    after = ""
    while True:
        page = await store.list(Query("Host", limit=1000, after=after))
        found |= {item.name: item.metadata.revision for item in page.items}
        after = page.after
        if not after:
            break

    assert acknowledged
    assert {name: found.get(name) for name in acknowledged} == acknowledged
    # And nothing is there by halves.
    assert len(found) == page.revision == await store.counter("written")
    records = []
    while more := await store.audits(after=len(records)):
        records += more
    assert verify_chain(records)[0] == len(found)
