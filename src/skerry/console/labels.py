"""Labels as people type them in one line: `tier=edge, rack=4`."""

from __future__ import annotations

import re
from collections.abc import Mapping


def parse_labels(text: str) -> dict[str, str]:
    """Pairs between commas, spaces or lines; what is wrong with them the services say."""
    found: dict[str, str] = {}
    for part in re.split(r"[,\s]+", text.strip()):
        if part:
            key, _, value = part.partition("=")
            found[key.strip()] = value.strip()
    return found


def labels_text(labels: Mapping[str, str]) -> str:
    """The same the other way round."""
    return ", ".join(f"{key}={value}" if value else key for key, value in sorted(labels.items()))
