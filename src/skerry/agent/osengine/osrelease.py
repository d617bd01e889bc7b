"""What the running system says of itself: os-release(5)."""

from __future__ import annotations

from skerry.lib.files import Root, text_of

_MAX_TEXT = 64 * 1024


def release_of(root: Root) -> dict[str, str]:
    """os-release as a table; empty where there is none."""
    text = text_of(root, "/etc/os-release") or text_of(root, "/usr/lib/os-release")
    pairs = (line.partition("=") for line in text[:_MAX_TEXT].splitlines() if "=" in line)
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}
