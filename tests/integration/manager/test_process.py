"""The manager as a process: how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STOP_S = 30


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda item: item.name)
@pytest.mark.parametrize("ignored", [False, True], ids=["terminal", "background"])
def test_signals_end_the_manager_well(
    tmp_path: Path, number: signal.Signals, *, ignored: bool
) -> None:
    # A shell starts what runs in its background with SIGINT ignored.
    start = "import signal;" + ("signal.signal(signal.SIGINT, signal.SIG_IGN);" if ignored else "")
    program = f"{start}from skerry.cli.main import main; main()"
    arguments = ["serve", "--data", str(tmp_path / "m"), "--listen", "127.0.0.1:0", "-o", "json"]
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            text = ""
            while not text.endswith("}\n"):
                line = process.stdout.readline()
                assert line, process.stderr.read() if process.stderr else ""
                text += line
            assert json.loads(text)["url"].startswith("https://127.0.0.1:")

            process.send_signal(number)

            code = process.wait(STOP_S)
            said = process.stderr.read() if process.stderr else ""
        finally:
            process.kill()
    assert code == 0, said
    assert "Traceback" not in said
