"""The contexts file: where it is, who can read it, what is refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from skerry.client import contexts
from skerry.client.contexts import Config, ConfigInvalid, Context, ContextMissing

NORTH = Context(name="north", server="https://north:8443", ca="-----\nPEM\n-----\n", token="t1")
SOUTH = Context(name="south", server="https://south:8443", project="shops")


def test_saved_contexts_are_read_back_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    path = tmp_path / "skerry" / "config.yaml"

    contexts.save(path, Config().with_context(NORTH).with_context(SOUTH, use=False))

    assert contexts.load(path) == Config(current="north", contexts=(NORTH, SOUTH))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_file_that_others_could_read_becomes_private_when_it_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("current: ''\n")
    path.chmod(0o644)

    contexts.save(path, contexts.load(path).with_context(NORTH))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        ({"HOME": "/h"}, "/h/.config/skerry/config.yaml"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}, "/x/skerry/config.yaml"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/x", "SKERRY_CONFIG": "/c.yaml"}, "/c.yaml"),
    ],
)
def test_the_place_of_the_file_follows_the_environment(env: dict[str, str], wanted: str) -> None:
    assert contexts.config_path(env) == Path(wanted)


def test_the_named_context_wins_over_the_environment_and_that_over_the_current(
    tmp_path: Path,
) -> None:
    env = {"SKERRY_CONFIG": str(tmp_path / "c.yaml")}
    contexts.save(tmp_path / "c.yaml", Config().with_context(SOUTH).with_context(NORTH))

    assert contexts.choose(env).name == "north"
    assert contexts.choose({**env, "SKERRY_CONTEXT": "south"}).name == "south"
    assert contexts.choose({**env, "SKERRY_CONTEXT": "south"}, "north").name == "north"


def test_an_environment_with_a_server_needs_no_file(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("PEM")
    env = {
        "SKERRY_CONFIG": str(tmp_path / "none.yaml"),
        "SKERRY_SERVER": "https://m:8443/",
        "SKERRY_TOKEN": "secret",
        "SKERRY_CA_FILE": str(tmp_path / "ca.pem"),
    }

    found = contexts.choose(env)

    assert (found.server, found.token, found.ca) == ("https://m:8443", "secret", "PEM")


def test_without_a_context_the_next_step_is_to_sign_in(tmp_path: Path) -> None:
    with pytest.raises(ContextMissing) as caught:
        contexts.choose({"SKERRY_CONFIG": str(tmp_path / "none.yaml")})

    assert caught.value.exit_code == 3
    assert "skerry login" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["contexts: {", "current: 3", "surprise: 1", "- a", "!!python/x 1"]
)
def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)

    with pytest.raises(ConfigInvalid, match=str(path)):
        contexts.load(path)


def test_removing_the_current_context_leaves_none_chosen() -> None:
    config = Config().with_context(NORTH).with_context(SOUTH).without("south")

    assert config == Config(current="", contexts=(NORTH,))
    with pytest.raises(ContextMissing, match="south"):
        config.without("south")
