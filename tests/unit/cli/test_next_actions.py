"""The next action of every reason is a command that exists."""

from __future__ import annotations

import shlex

import click
import pytest

from skerry.agent.main import main as agent_main
from skerry.cli.main import cli
from skerry.model.meta import Condition
from skerry.model.reasons import REASONS, why

FACTS = {"host": "till-1", "cluster": "shop", "project": "default", "code": "ABCD"}


@pytest.mark.parametrize("name", REASONS)
def test_the_next_action_of_a_reason_exists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    condition = Condition(type="Any", status="False", reason=name)
    program, *words = shlex.split(why([condition], FACTS).next_action)

    if program == "skerry-agent":
        with pytest.raises(SystemExit) as ended:
            agent_main([words[0], "--help"])
        assert ended.value.code == 0
        return
    context = click.Context(cli)
    command: click.Command | None = cli
    for word in words:
        if not isinstance(command, click.Group):
            break
        command = command.get_command(context, word)
        assert command is not None, f"{program} {' '.join(words)}: no command {word}"
    assert command is not cli
