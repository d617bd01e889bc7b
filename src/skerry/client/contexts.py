"""Contexts: which manager, as whom, in which project; kept in one file of mode 0600.

The file is SKERRY_CONFIG, else `skerry/config.yaml` in XDG_CONFIG_HOME or ~/.config. SKERRY_SERVER
makes a context from the environment alone (SKERRY_TOKEN, SKERRY_CA_FILE, SKERRY_PROJECT), for CI.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import yaml

from skerry.lib import yamltext
from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskRoot
from skerry.model.meta import DEFAULT_PROJECT


class ContextMissing(SkerryError):
    """There is no context to work with."""

    exit_code = 3


class ConfigInvalid(SkerryError):
    """The contexts file cannot be read."""

    exit_code = 2


class Context(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One manager as one person. `ca` is PEM text; empty means the system's authorities."""

    name: str
    server: str
    ca: str = ""
    token: str = ""
    project: str = DEFAULT_PROJECT


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All contexts; `current` names the one that commands use."""

    current: str = ""
    contexts: tuple[Context, ...] = ()

    def find(self, name: str) -> Context:
        """Raises ContextMissing."""
        for context in self.contexts:
            if context.name == name:
                return context
        known = ", ".join(context.name for context in self.contexts)
        raise ContextMissing(
            f"there is no context {name!r}",
            hint=f"known contexts: {known}" if known else "make one with 'skerry login SERVER'",
        )

    def with_context(self, context: Context, *, use: bool = True) -> Config:
        """Add or replace a context."""
        kept = [item for item in self.contexts if item.name != context.name]
        ordered = sorted([*kept, context], key=lambda item: item.name)
        current = context.name if use or not self.current else self.current
        return Config(current=current, contexts=tuple(ordered))

    def without(self, name: str) -> Config:
        """Raises ContextMissing."""
        self.find(name)
        kept = tuple(item for item in self.contexts if item.name != name)
        return Config(current="" if self.current == name else self.current, contexts=kept)

    def using(self, name: str) -> Config:
        """Raises ContextMissing."""
        return Config(current=self.find(name).name, contexts=self.contexts)


def config_path(env: Mapping[str, str]) -> Path:
    """Where the contexts lie."""
    if chosen := env.get("SKERRY_CONFIG"):
        return Path(chosen)
    home = env.get("XDG_CONFIG_HOME") or Path(env.get("HOME") or "/root") / ".config"
    return Path(home) / "skerry" / "config.yaml"


def load(path: Path) -> Config:
    """The file's contexts; none when there is no file. Raises ConfigInvalid."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Config()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigInvalid(f"cannot read {path}: {exc}") from exc
    try:
        return msgspec.convert(yaml.safe_load(text) or {}, Config)
    except (yaml.YAMLError, msgspec.ValidationError) as exc:
        raise ConfigInvalid(
            f"{path} cannot be used: {str(exc).splitlines()[0]}",
            hint=f"move {path} away and sign in again with 'skerry login'",
        ) from exc


def save(path: Path, config: Config) -> None:
    """Replace the file, readable by its owner only."""
    place = path.absolute()
    if not place.parent.exists():
        place.parent.mkdir(mode=0o700, parents=True)
    text = yamltext.dump(msgspec.to_builtins(config))
    DiskRoot(str(place.parent)).write(f"/{place.name}", text.encode(), mode=0o600)


def choose(env: Mapping[str, str], name: str = "") -> Context:
    """The context that a command works with. Raises ContextMissing, ConfigInvalid."""
    name = name or env.get("SKERRY_CONTEXT", "")
    if not name and env.get("SKERRY_SERVER"):
        return _from_environment(env)
    config = load(config_path(env))
    if name:
        return config.find(name)
    if not config.current:
        raise ContextMissing(
            "no manager is chosen",
            hint="skerry context use NAME" if config.contexts else "skerry login SERVER",
        )
    return config.find(config.current)


def _from_environment(env: Mapping[str, str]) -> Context:
    ca = ""
    if place := env.get("SKERRY_CA_FILE"):
        try:
            ca = Path(place).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigInvalid(f"cannot read SKERRY_CA_FILE {place}: {exc}") from exc
    return Context(
        name="environment",
        server=env["SKERRY_SERVER"].rstrip("/"),
        ca=ca,
        token=env.get("SKERRY_TOKEN", ""),
        project=env.get("SKERRY_PROJECT", DEFAULT_PROJECT),
    )
