"""What GRUB does on a Kairos host, by the rules of Kairos' grub.cfg and of its boot assessment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

# Entry -> label of the partition, image, label of the image.
BOOTS = {
    "cos": ("COS_STATE", "active.img", "COS_ACTIVE"),
    "fallback": ("COS_STATE", "passive.img", "COS_PASSIVE"),
    "recovery": ("COS_RECOVERY", "recovery.img", "COS_SYSTEM"),
    "statereset": ("COS_RECOVERY", "recovery.img", "COS_SYSTEM"),
}


@dataclass(frozen=True)
class Choice:
    """The entry, words for its command line, and the two environment blocks as they are after."""

    entry: str
    words: str
    variables: dict[str, str]
    assessment: dict[str, str]


def choose(
    variables: Mapping[str, str], assessment: Mapping[str, str], there: Callable[[str], bool]
) -> Choice:
    """`there` says whether an image of the state partition exists."""
    kept, marks, words = dict(variables), dict(assessment), ""
    selected = kept.pop("next_entry", "")
    entry = selected or kept.get("saved_entry", "") or "cos"
    if marks.get("enable_boot_assessment") == "yes" and not selected:
        if marks.get("boot_assessment_tentative") == "yes":
            entry, words = "fallback", "upgrade_failure"
        else:
            marks["boot_assessment_tentative"] = "yes"
    # What the menu falls back to when an entry cannot be loaded: 0 1 2.
    for name in dict.fromkeys((entry, "cos", "fallback", "recovery")):
        part, image, _ = BOOTS[name]
        if part != "COS_STATE" or there(image):
            return Choice(name, words, kept, marks)
    raise AssertionError("nothing to start")


def block(variables: Mapping[str, str]) -> str:
    """An environment block."""
    text = "# GRUB Environment Block\n" + "".join(f"{k}={v}\n" for k, v in variables.items() if v)
    return text + "#" * (1024 - len(text) % 1024)
