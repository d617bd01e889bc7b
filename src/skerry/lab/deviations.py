"""Choose the lab's deviations for this computer, from the one data file beside this module.

The result is public profile values for the kubernetes layer, with the top-level keys `kubelet`,
`kubeProxy`, `kubeadm` and `containerd` as far as they are needed. A rule whose `when` names an
unknown fact is an error, so that a renamed fact cannot silently switch a rule off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import resources
from typing import Any

import msgspec
import yaml

from skerry.lab.errors import LabError
from skerry.lab.facts import MachineFacts


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule of the data file: `values` apply when every fact in `when` is equal."""

    name: str
    why: str
    when: dict[str, int | bool]
    values: dict[str, dict[str, Any]]


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rules: list[Rule]


def load_rules() -> list[Rule]:
    """The rules of the shipped data file, in order."""
    text = resources.files("skerry.lab").joinpath("deviations.yaml").read_text()
    return msgspec.convert(yaml.safe_load(text), _Document).rules


def deviations(facts: MachineFacts) -> dict[str, Any]:
    """Values to merge into a profile's kubernetes layer on a computer with these facts."""
    return select(load_rules(), facts)


def select(rules: list[Rule], facts: MachineFacts) -> dict[str, Any]:
    """Merge the values of the rules that apply. Raises LabError for an unknown fact."""
    known = dataclasses.asdict(facts)
    merged: dict[str, Any] = {}
    for rule in rules:
        if unknown := sorted(set(rule.when) - set(known)):
            raise LabError(f"deviation rule {rule.name} asks for unknown facts {unknown}")
        if all(known[fact] == wanted for fact, wanted in rule.when.items()):
            merged = _merge(merged, rule.values)
    return merged


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            result[key] = _merge(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            result[key] = old + [item for item in value if item not in old]
        else:
            result[key] = value
    return result
