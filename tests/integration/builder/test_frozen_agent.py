"""The agent's archive with a stub in the agent's place: it unpacks and runs without Python."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import skerry
from skerry.builder.agent import AgentBuildFailed, build_agent
from skerry.builder.cache import default_cache
from skerry.lib.oci import file_digest
from skerry.lib.proc import SystemRunner

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.timeout(900)]

LOCK = Path(__file__).parents[3] / "requirements" / "dev.txt"
STUB = """\
import ssl

import anyio
import httpx2
import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric import ed25519

from skerry import __version__


async def work() -> None:
    await anyio.sleep(0)
    ed25519.Ed25519PrivateKey.generate()
    httpx2.AsyncClient(verify=ssl.create_default_context())
    print(__version__, msgspec.json.encode({}).decode())


def main() -> int:
    anyio.run(work)
    return 0
"""


def _source(folder: Path, main: str) -> Path:
    package = folder / "skerry"
    (package / "agent").mkdir(parents=True)
    shutil.copy(Path(skerry.__file__), package)
    (package / "agent" / "__init__.py").touch()
    (package / "agent" / "main.py").write_text(main, encoding="utf-8")
    return package


async def test_the_archive_runs_from_anywhere_without_an_environment(tmp_path: Path) -> None:
    runner = SystemRunner()
    archive = await build_agent(
        cache=default_cache(os.environ),
        runner=runner,
        lock=LOCK,
        source=_source(tmp_path, STUB),
    )

    await runner.run(["tar", "-xzf", str(archive.path), "-C", str(tmp_path)], timeout_s=120)
    program = str(tmp_path / "skerry-agent" / "skerry-agent")
    said = await runner.run(["env", "-i", program], timeout_s=60)

    assert said.stdout.split() == [skerry.__version__, "{}"]
    assert file_digest(archive.path) == (archive.info.digest, archive.info.size_bytes)
    # Debian 12 has 2.36.
    assert tuple(map(int, archive.info.glibc.split("."))) <= (2, 36)
    assert archive.info.unpacked_bytes < 60 * 1024 * 1024


async def test_an_agent_that_imports_what_it_may_not_is_refused(tmp_path: Path) -> None:
    source = _source(tmp_path, "import sqlalchemy\n\n\ndef main() -> int:\n    return 0\n")

    with pytest.raises(AgentBuildFailed, match="No module named 'sqlalchemy'"):
        await build_agent(
            cache=default_cache(os.environ), runner=SystemRunner(), lock=LOCK, source=source
        )
