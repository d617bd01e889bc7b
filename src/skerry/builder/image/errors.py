"""What can go wrong while an image is built."""

from __future__ import annotations

from skerry.lib.errors import SkerryError


class ImageBuildFailed(SkerryError):
    """A step of an image's build failed."""


class KeysUnusable(SkerryError):
    """A folder of image keys is incomplete, or something in it cannot be used."""

    exit_code = 2
