"""Writes to the store named in argv as fast as it can, says what was acknowledged, and never ends.

Run by `test_kill`, which kills it. Each line is "NAME REVISION", printed after `commit` returned.
"""

from __future__ import annotations

import itertools
import os
import sys

import anyio
from store_objects import audit, host

from skerry.manager.store import Store, open_store
from skerry.manager.store.protocol import Put, Take, WriteSet


async def write(store: Store, names: itertools.count[int]) -> None:
    while True:
        name = f"h{os.getpid()}-{next(names)}"
        committed = await store.commit(
            WriteSet(
                takes=(Take("written", None),), puts=(Put(host(name), 0),), audits=(audit(name),)
            )
        )
        sys.stdout.write(f"{name} {committed.revision}\n")
        sys.stdout.flush()


async def main(url: str) -> None:
    store = await open_store(url)
    names = itertools.count()
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(write, store, names)


anyio.run(main, sys.argv[1])
