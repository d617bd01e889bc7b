"""What can go wrong in the lab. Every one is about this computer, never about the product."""

from __future__ import annotations

from skerry.lib.errors import SkerryError


class LabError(SkerryError):
    """A lab operation failed."""


class BadLabName(LabError):
    """A run or host name cannot be used in interface, machine and folder names."""

    exit_code = 2


class TreeFailed(LabError):
    """The host tree could not be made."""


class NoFreeNetwork(LabError):
    """All of the lab's address ranges are in use on this computer."""


class HostFailed(LabError):
    """A lab host did not start, did not stop, or is not running."""
