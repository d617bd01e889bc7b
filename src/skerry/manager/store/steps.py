"""Transactions as generators: they ask for statements, a back end answers with rows.

What a transaction does is thus written once and without I/O; SQLite drives it in a thread,
PostgreSQL from the event loop. A statement is built once with SQLAlchemy Core and compiled for
both dialects on first use; rows are plain sequences in column order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import asyncpg as asyncpg_dialect
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql.base import Executable

T = TypeVar("T")

Rows = Sequence[Sequence[Any]]

_SQLITE: Dialect = sqlite.dialect()
_POSTGRES: Dialect = asyncpg_dialect.dialect()  # type: ignore[no-untyped-call]  # as above

# `insert` with ON CONFLICT exists per dialect with the same methods; statements that need it take
# the function as an argument.
Insert = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Compiled:
    """Text with positional parameters, their names in order, and the ones known already."""

    text: str
    order: tuple[str, ...]
    known: Mapping[str, Any]

    def arguments(self, given: Mapping[str, Any]) -> list[Any]:
        """Parameter values in the order that the driver wants."""
        return [given[name] if name in given else self.known[name] for name in self.order]


class Statement:
    """One SQL statement for every back end."""

    def __init__(self, build: Executable | Callable[[Insert], Executable]) -> None:
        self._build = build

    @cached_property
    def sqlite(self) -> Compiled:
        """For the standard library's sqlite3."""
        return self._compile(_SQLITE, sqlite.insert)

    @cached_property
    def postgres(self) -> Compiled:
        """For asyncpg."""
        return self._compile(_POSTGRES, postgresql.insert)

    def _compile(self, dialect: Dialect, insert: Insert) -> Compiled:
        assert isinstance(dialect, DefaultDialect)
        built = self._build
        core = built if isinstance(built, Executable) else built(insert)
        compiled: Any = core.compile(  # type: ignore[attr-defined]  # every Executable has it
            dialect=dialect, compile_kwargs={"render_postcompile": True}
        )
        return Compiled(
            text=str(compiled),
            order=tuple(compiled.positiontup or ()),
            known=dict(compiled.construct_params(_check=False)),
        )


@dataclass(frozen=True, slots=True)
class Call:
    """Run this statement with these named values."""

    statement: Statement
    values: Mapping[str, Any] = field(default_factory=dict)


Steps = Generator[Call, Rows, T]
