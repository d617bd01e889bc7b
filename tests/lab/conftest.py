"""Fixtures for real hosts. Each test module gets a lab run of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.lab import Lab


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Lab fixtures outlive a test, and so does their event loop."""
    return "asyncio"


@pytest.fixture(scope="session")
def lab_base() -> Path:
    """Where disks lie. Not /tmp, which may be a memory file system that overlayfs refuses."""
    return Path("/var/tmp/skerry-lab-tests")


@pytest.fixture(scope="module")
async def lab(
    lab_base: Path, anyio_backend: str, request: pytest.FixtureRequest
) -> AsyncIterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("real hosts need root")
    run = f"t{os.getpid()}-{abs(hash(request.node.name)) % 1000}"
    async with Lab(run, lab_base) as entered:
        yield entered
