"""The door to the running system's name. The files that keep it are written through a Root."""

from __future__ import annotations

import socket


def set_host_name(name: str) -> None:
    """Name the running system. Raises OSError when that is not allowed."""
    socket.sethostname(name)
