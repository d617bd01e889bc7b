"""`${{ name }}` in the texts of a profile, and the variables behind it.

There is no code in it: a name is replaced by its value, once, and a value is never looked at
again. Everything else passes byte for byte, so Helm's and Go's `{{ .Values.x }}` stay as they are.
Names with a dot are facts (`host.name`, `cluster.name`) or secrets (`secret.NAME.KEY`); those are
known on the host only and stay in place until it expands them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from skerry.model.kinds import Variable, VariableFormat
from skerry.model.problems import DocumentInvalid, Problem

# A leading letter is wanted: `${{ .Values.price }}` belongs to Helm and is not ours.
_REFERENCE = re.compile(r"\$\{\{[ \t]*([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*\}\}")
_VERSION = re.compile(r"v?\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")

FACTS = ("cluster.name", "cluster.uid", "host.name", "host.uid", "host.architecture", "host.site")
SECRET_PREFIX = "secret."  # noqa: S105 - a name, not a secret
MAX_VALUE_CHARS = 4096

_EXAMPLES = {
    VariableFormat.STRING: "example",
    VariableFormat.NUMBER: "1",
    VariableFormat.BOOLEAN: "true",
    VariableFormat.IPV4: "192.0.2.1",
    VariableFormat.IPV4_CIDR: "192.0.2.0/24",
    VariableFormat.VERSION: "1.0.0",
}


def references(text: str) -> tuple[str, ...]:
    """Names used in a text, each once, in order of appearance."""
    return tuple(dict.fromkeys(_REFERENCE.findall(text)))


def is_deferred(name: str) -> bool:
    """Whether the name is known on the host only."""
    return name in FACTS or (name.startswith(SECRET_PREFIX) and name.count(".") >= 2)


def expand(
    text: str, values: Mapping[str, str], *, keep: Callable[[str], bool] = is_deferred
) -> str:
    """Replace every name. A name without a value stays in place when `keep` says so.

    Raises DocumentInvalid that lists all names that are unknown.
    """
    unknown = [name for name in references(text) if name not in values and not keep(name)]
    if unknown:
        raise DocumentInvalid("text", unknown_problems("", unknown, values))
    return _REFERENCE.sub(lambda found: values.get(found[1], found[0]), text)


def never(name: str) -> bool:
    """For `keep`: every name must have a value (as on the host)."""
    return False


def unknown_problems(path: str, names: Iterable[str], known: Iterable[str]) -> list[Problem]:
    """One problem per unknown name."""
    there = ", ".join(sorted(known)) or "none"
    return [
        Problem(
            path=path,
            message=f"unknown variable {name!r}",
            hint=f"declare it under variables, or use one of: {there}",
        )
        for name in names
    ]


def format_problem(variable: Variable, value: str) -> str:
    """What is wrong with a value of this variable; empty when it fits."""
    if len(value) > MAX_VALUE_CHARS or any(ord(char) < 32 for char in value):
        return f"must be one line of at most {MAX_VALUE_CHARS} characters"
    if not _fits(variable.format, value):
        return f"is not of format {variable.format.value}"
    if variable.regex:
        try:
            if re.fullmatch(variable.regex, value) is None:
                return f"does not match {variable.regex}"
        except re.error:
            return ""  # the profile's own problem, reported there
    return ""


def check_variables(variables: Sequence[Variable]) -> list[Problem]:
    """Problems of the declarations: names twice, bad regexes, unknown references, cycles."""
    problems: list[Problem] = []
    known = {variable.name for variable in variables}
    seen: set[str] = set()
    for index, variable in enumerate(variables):
        path = f"variables[{index}]"
        if variable.name in seen:
            problems.append(
                Problem(path=f"{path}.name", message=f"{variable.name!r} is declared twice")
            )
        seen.add(variable.name)
        if variable.regex:
            try:
                re.compile(variable.regex)
            except re.error as exc:
                problems.append(
                    Problem(path=f"{path}.regex", message=f"not a regular expression: {exc}")
                )
        if variable.default is None:
            continue
        used = references(variable.default)
        unknown = [name for name in used if name not in known and not is_deferred(name)]
        problems += unknown_problems(f"{path}.default", unknown, known)
        if not used and (wrong := format_problem(variable, variable.default)):
            problems.append(
                Problem(path=f"{path}.default", message=f"{variable.default!r} {wrong}")
            )
    if (cycle := _cycle(variables)) is not None:
        problems.append(
            Problem(
                path="variables",
                message=f"variables refer to each other in a circle: {' -> '.join(cycle)}",
                hint="give one of them a plain default",
            )
        )
    return problems


def resolve_variables(
    variables: Sequence[Variable], given: Mapping[str, str], *, examples: bool = False
) -> dict[str, str]:
    """Value of every declared variable: what was given, or its expanded default, or "".

    With `examples`, a required one without value gets an example of its format, so that a profile
    can be checked before any cluster uses it. Raises DocumentInvalid with all problems.
    """
    problems = check_variables(variables)
    if problems:
        raise DocumentInvalid("variables", problems)
    values: dict[str, str] = {}
    by_name = {variable.name: variable for variable in variables}
    for name in TopologicalSorter(_graph(variables)).static_order():
        variable = by_name[name]
        if name in given:
            values[name] = given[name]
        elif variable.default is not None:
            values[name] = expand(variable.default, values)
        elif variable.required and not examples:
            problems.append(
                Problem(
                    path=f"variables.{name}",
                    message=f"variable {name!r} is required",
                    hint=variable.description or f"set variables.{name}",
                )
            )
            values[name] = ""  # so that what refers to it does not add noise
            continue
        else:
            values[name] = _EXAMPLES[variable.format] if examples else ""
            continue
        if not any(is_deferred(used) for used in references(values[name])) and (
            wrong := format_problem(variable, values[name])
        ):
            problems.append(Problem(path=f"variables.{name}", message=f"{values[name]!r} {wrong}"))
    if problems:
        raise DocumentInvalid("variables", problems)
    return values


def _graph(variables: Sequence[Variable]) -> dict[str, list[str]]:
    known = {variable.name for variable in variables}
    return {
        variable.name: [name for name in references(variable.default or "") if name in known]
        for variable in variables
    }


def _cycle(variables: Sequence[Variable]) -> list[str] | None:
    try:
        TopologicalSorter(_graph(variables)).prepare()
    except CycleError as exc:
        return [str(name) for name in exc.args[1]]
    return None


def _fits(wanted: VariableFormat, value: str) -> bool:
    match wanted:
        case VariableFormat.STRING:
            return True
        case VariableFormat.NUMBER:
            return _NUMBER.fullmatch(value) is not None
        case VariableFormat.BOOLEAN:
            return value in ("true", "false")
        case VariableFormat.VERSION:
            return _VERSION.fullmatch(value) is not None
        case VariableFormat.IPV4:
            return _parses(ipaddress.IPv4Address, value)
        case VariableFormat.IPV4_CIDR:
            return "/" in value and _parses(ipaddress.IPv4Network, value)


def _parses(kind: Callable[[str], object], value: str) -> bool:
    try:
        kind(value)
    except ValueError:
        return False
    return True
