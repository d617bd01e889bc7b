"""What a kind's rules hand back: the object to store and everything that changes with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from skerry.manager.store.protocol import AnyResource, Event, Put, SetValue, Take
from skerry.model.meta import Record
from skerry.model.problems import Problem


class HostReaction(Record, frozen=True, kw_only=True):
    """What a change would do to one host. `kind` is a reaction of plan.reactions."""

    host: str
    path: str
    kind: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """An object about to be stored. Nothing is written while there are problems.

    `blobs` are stored before the object that names them.
    """

    resource: AnyResource
    problems: tuple[Problem, ...] = ()
    puts: tuple[Put, ...] = ()
    values: tuple[SetValue, ...] = ()
    events: tuple[Event, ...] = ()
    reactions: tuple[HostReaction, ...] = ()
    once: dict[str, str] = field(default_factory=dict)
    blobs: tuple[bytes, ...] = ()

    @property
    def writes(self) -> bool:
        return bool(self.puts or self.values)


@dataclass(frozen=True, slots=True)
class Ending:
    """What the deletion of an object needs. `finalizers` have to go before it does; while they
    are waited for, `asked` is kept already."""

    problems: tuple[Problem, ...] = ()
    finalizers: tuple[str, ...] = ()
    puts: tuple[Put, ...] = ()
    values: tuple[SetValue, ...] = ()
    takes: tuple[Take, ...] = ()
    asked: tuple[SetValue, ...] = ()
