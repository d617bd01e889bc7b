"""Sections of a boot image (PE/COFF; Microsoft, "PE Format"): read with limits, never executed."""

from __future__ import annotations

import struct
from pathlib import Path

from skerry.lib.errors import SkerryError

MAX_IMAGE_BYTES = 512 * 1024 * 1024
_MAX_SECTIONS = 96


class NotABootImage(SkerryError):
    """A file is no PE image, or is cut off."""


def sections(path: Path) -> dict[str, bytes]:
    """Content of each section by its name (".cmdline"); the first of a name counts.

    Raises NotABootImage.
    """
    if path.stat().st_size > MAX_IMAGE_BYTES:
        raise NotABootImage(f"{path} is larger than {MAX_IMAGE_BYTES} bytes")
    data = path.read_bytes()
    try:
        if data[:2] != b"MZ":
            raise NotABootImage(f"{path} is no boot image")
        (head,) = struct.unpack_from("<I", data, 0x3C)
        if data[head : head + 4] != b"PE\0\0":
            raise NotABootImage(f"{path} is no boot image")
        (count,) = struct.unpack_from("<H", data, head + 6)
        (optional,) = struct.unpack_from("<H", data, head + 20)
        found: dict[str, bytes] = {}
        for number in range(min(count, _MAX_SECTIONS)):
            at = head + 24 + optional + 40 * number
            name = data[at : at + 8].rstrip(b"\0").decode("ascii", errors="replace")
            size, _, raw, place = struct.unpack_from("<IIII", data, at + 8)
            if place + min(size, raw) > len(data):
                raise NotABootImage(f"{path} is cut off in section {name}")
            found.setdefault(name, data[place : place + min(size, raw)])
    except struct.error as exc:
        raise NotABootImage(f"{path} is cut off") from exc
    return found
