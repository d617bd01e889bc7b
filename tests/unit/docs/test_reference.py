"""The reference is made from code, is current, and leaves nothing out."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import click
import pytest

from skerry.cli import exitcodes, handbook
from skerry.cli.kindpage import documented, parts_of
from skerry.cli.main import cli
from skerry.cli.reference import ENVIRONMENT
from skerry.manager.settings import MEANINGS, TUNABLE, SettingInvalid, Settings, tuned
from skerry.model.kinds import KINDS
from skerry.model.kindtexts import FIELD_TEXTS
from skerry.model.reasons import REASONS

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "docs" / "reference"


@pytest.mark.parametrize("name", handbook.PAGES)
def test_generated_pages_are_current(name: str) -> None:
    # To renew them: python -m skerry.cli.handbook docs/reference
    assert (FOLDER / name).read_text() == handbook.PAGES[name]()


def test_every_environment_variable_in_the_code_is_documented() -> None:
    found: set[str] = set()
    places = [ROOT / "dev", *(ROOT / "tools").glob("*.py")]
    places += [*(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.sh")]
    places += (ROOT / "tests" / "browser").glob("*.py")
    for place in places:
        found.update(re.findall(r"\bSKERRY_[A-Z_]*[A-Z]\b", place.read_text()))

    known = {name for rows in ENVIRONMENT.values() for name in rows}
    assert found == {name for name in known if name.startswith("SKERRY_")}
    page = (FOLDER / "settings.md").read_text()
    assert [name for name in known if f"`{name}`" not in page] == []


def test_every_setting_has_a_meaning() -> None:
    assert set(MEANINGS) == {item.name for item in fields(Settings)}


def test_numbers_can_be_set_by_name_and_nothing_else() -> None:
    before = Settings(data="/d")
    after = tuned(before, {"sync_interval_s": "60", "flush_s": "2.5"})

    assert (after.sync_interval_s, after.flush_s, after.data) == (60, 2.5, "/d")
    for name in TUNABLE:
        assert getattr(tuned(before, {name: "7"}), name) == 7
    for name, text in (
        ("data", "/x"),
        ("sync_intervall_s", "60"),
        ("sync_interval_s", "often"),
        ("sync_interval_s", "2.5"),
        ("hold_s", "0"),
        ("flush_s", "inf"),
        ("flush_s", "nan"),
    ):
        with pytest.raises(SettingInvalid) as caught:
            tuned(before, {name: text})
        assert caught.value.hint


def test_every_command_and_every_option_has_words() -> None:
    silent: list[str] = []

    def visit(command: click.Command, path: str) -> None:
        if not (command.help or "").strip():
            silent.append(path)
        silent.extend(
            f"{path} {parameter.opts[0]}"
            for parameter in command.params
            if isinstance(parameter, click.Option) and not parameter.help and not parameter.hidden
        )
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=path)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                visit(inner, f"{path} {name}")

    visit(cli, "skerry")
    page = (FOLDER / "cli.md").read_text()

    assert silent == []
    assert "## `skerry backup create`" in page


def test_every_field_that_people_write_has_words() -> None:
    wanted = {
        name
        for kind in KINDS.values()
        if kind.writable
        for part in parts_of(kind)
        for name in documented(part)
    }

    assert wanted == set(FIELD_TEXTS)


def test_every_error_says_what_it_means_and_has_a_known_exit_code() -> None:
    known = {int(code) for code in exitcodes.ExitCode}
    for kind in handbook.error_classes():
        assert (kind.__doc__ or "").strip(), kind.__name__
        assert kind.exit_code in known, kind.__name__
    assert set(exitcodes.MEANINGS) == set(exitcodes.ExitCode)


def test_every_reason_has_a_cause_and_a_next_action() -> None:
    for row in REASONS.values():
        assert row.cause.endswith("."), row.name
        assert row.action.startswith(("skerry ", "skerry-agent ")), row.name
