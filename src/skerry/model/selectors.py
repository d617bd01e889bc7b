"""Label selectors as Kubernetes writes them: text to value, value against labels.

The grammar is that of k8s.io/apimachinery/pkg/labels (selector.go): requirements joined by
commas, all of which must hold. Non-obvious: `!=` and `notin` also hold for an object that has no
such label at all, as in Kubernetes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from skerry.lib.errors import SkerryError
from skerry.model.meta import LABEL_KEY_PATTERN, LABEL_VALUE_PATTERN

MAX_SELECTOR_CHARS = 8192

_KEY = re.compile(LABEL_KEY_PATTERN)
_VALUE = re.compile(LABEL_VALUE_PATTERN)
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_TOKEN = re.compile(r"[ \t\r\n]*(?:(==|!=|[=!(),<>])|([^ \t\r\n=!(),<>]+))")
_SPACE = " \t\r\n"


class SelectorInvalid(SkerryError):
    """The text of a label selector cannot be read."""

    def __init__(self, text: str, problem: str) -> None:
        super().__init__(
            f"label selector {text[:200]!r}: {problem}",
            hint="write requirements joined by commas, such as 'site=north,tier in (a,b),!old'",
        )


class Operator(StrEnum):
    """How a requirement compares. `=` and `==` are IN with one value, `!=` is NOT_IN."""

    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    NOT_EXISTS = "!"
    GREATER = ">"
    LESS = "<"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label. `values` is sorted and empty for EXISTS and NOT_EXISTS."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels fulfil this condition."""
        present = self.key in labels
        if self.operator is Operator.EXISTS:
            return present
        if self.operator is Operator.NOT_EXISTS:
            return not present
        if self.operator is Operator.IN:
            return present and labels[self.key] in self.values
        if self.operator is Operator.NOT_IN:
            return not present or labels[self.key] not in self.values
        # A label that is not a whole number fulfils neither < nor >, as in Kubernetes.
        if not present or _WHOLE_NUMBER.fullmatch(labels[self.key]) is None:
            return False
        found, bound = int(labels[self.key]), int(self.values[0])
        return found > bound if self.operator is Operator.GREATER else found < bound

    def __str__(self) -> str:
        if self.operator is Operator.EXISTS:
            return self.key
        if self.operator is Operator.NOT_EXISTS:
            return f"!{self.key}"
        if self.operator in (Operator.GREATER, Operator.LESS):
            return f"{self.key}{self.operator}{self.values[0]}"
        if len(self.values) == 1:
            sign = "=" if self.operator is Operator.IN else "!="
            return f"{self.key}{sign}{self.values[0]}"
        return f"{self.key} {self.operator} ({','.join(self.values)})"


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold; without any, everything matches. `str` gives it back as text."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements)


def parse_selector(text: str) -> Selector:
    """Read a selector such as "site=a,tier!=x,env in (a,b),gpu,!old,cores>4".

    Raises SelectorInvalid.
    """
    if len(text) > MAX_SELECTOR_CHARS:
        raise SelectorInvalid(text, f"longer than {MAX_SELECTOR_CHARS} characters")
    if not text.strip(_SPACE):
        return Selector()
    return Selector(tuple(_Parser(text).requirements()))


class _Parser:
    """Walks the tokens of one text. A token is a (is_symbol, text) pair; the end is (True, "")."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [(bool(match[1]), match[1] or match[2]) for match in _TOKEN.finditer(text)]
        self._at = 0

    def requirements(self) -> Iterator[Requirement]:
        while True:
            yield self._requirement()
            symbol, word = self._next()
            if (symbol, word) == (True, ""):
                return
            if (symbol, word) != (True, ","):
                raise self._wrong(word, "',' or the end")

    def _requirement(self) -> Requirement:
        if self._peek() == (True, "!"):
            self._next()
            return Requirement(self._key(), Operator.NOT_EXISTS)
        key = self._key()
        symbol, word = self._peek()
        if symbol and word in ("", ","):
            return Requirement(key, Operator.EXISTS)
        self._next()
        if symbol and word in ("=", "==", "!="):
            operator = Operator.NOT_IN if word == "!=" else Operator.IN
            return Requirement(key, operator, (self._value(),))
        if symbol and word in ("<", ">"):
            bound = self._value()
            if _WHOLE_NUMBER.fullmatch(bound) is None:
                raise SelectorInvalid(
                    self._text, f"{key}{word} needs a whole number, found {bound!r}"
                )
            return Requirement(key, Operator(word), (bound,))
        if not symbol and word in ("in", "notin"):
            return Requirement(key, Operator(word), self._values())
        raise self._wrong(word, "'=', '!=', 'in', 'notin', '<', '>' or ','")

    def _key(self) -> str:
        symbol, word = self._next()
        if symbol or word in ("in", "notin"):
            raise self._wrong(word, "a label key")
        if _KEY.fullmatch(word) is None:
            raise SelectorInvalid(self._text, f"{word[:100]!r} is not a label key")
        return word

    def _value(self) -> str:
        symbol, word = self._peek()
        if symbol:
            return ""  # "key=" asks for the empty value; what follows is checked by the caller
        self._next()
        if _VALUE.fullmatch(word) is None:
            raise SelectorInvalid(self._text, f"{word[:100]!r} is not a label value")
        return word

    def _values(self) -> tuple[str, ...]:
        symbol, word = self._next()
        if (symbol, word) != (True, "("):
            raise self._wrong(word, "'('")
        found = {self._value()}
        while True:
            symbol, word = self._next()
            if (symbol, word) == (True, ")"):
                return tuple(sorted(found))
            if (symbol, word) != (True, ","):
                raise self._wrong(word, "',' or ')'")
            found.add(self._value())

    def _peek(self) -> tuple[bool, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else (True, "")

    def _next(self) -> tuple[bool, str]:
        token = self._peek()
        self._at += 1
        return token

    def _wrong(self, found: str, expected: str) -> SelectorInvalid:
        shown = repr(found[:100]) if found else "the end"
        return SelectorInvalid(self._text, f"found {shown}, expected {expected}")
