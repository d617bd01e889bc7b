"""What lies on an installation medium, and what the installer makes of it on a disk.

Shared by the builder, which makes media, and the installer. The medium is a disk with a GPT and
three partitions: a vfat one that starts the live system and holds the files below, and the exact
bytes of the root and of its tree of hashes. A file skerry.yaml beside the folder is site data.
"""

from __future__ import annotations

from skerry.model.meta import Record

MEDIUM_ESP = "skerry-install-esp"
MEDIUM_ROOT = "skerry-install-root"
MEDIUM_VERITY = "skerry-install-verity"
MEDIUM_LABELS = (MEDIUM_ESP, MEDIUM_ROOT, MEDIUM_VERITY)

# On the medium's vfat partition.
FOLDER = "skerry"
INFO = "image.json"
SLOT_IMAGE = "slot.efi"
RECOVERY_IMAGE = "recovery.efi"
LOADER_SETTINGS = "loader.conf"
KEYS = "keys"
# Optional: how large the partitions become, as JSON of `disklayout.Sizes`.
SIZES = "sizes.json"

MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_KEY_FILES = 32

# Names that the firmware and systemd-boot know (UEFI specification 2.10, section 3.5.1).
_LOADERS = {
    "amd64": ("systemd-bootx64.efi", "BOOTX64.EFI"),
    "arm64": ("systemd-bootaa64.efi", "BOOTAA64.EFI"),
}
KEYS_TARGET = "loader/keys"


class EspFile(Record, frozen=True, kw_only=True):
    """A file of the medium's folder and its place on the installed `skerry-esp`."""

    source: str
    target: str


def loader_file(architecture: str) -> str:
    """Name of the loader in the medium's folder."""
    return _LOADERS[architecture][0]


def esp_files(architecture: str) -> tuple[EspFile, ...]:
    """In the order in which they are written: the loader last, so that the firmware passes over an
    ESP that is not complete. Recovery starts only through the firmware, never as an entry."""
    loader, usual = _LOADERS[architecture]
    return (
        EspFile(source=RECOVERY_IMAGE, target="EFI/skerry/recovery.efi"),
        EspFile(source=LOADER_SETTINGS, target="loader/loader.conf"),
        EspFile(source=loader, target=f"EFI/systemd/{loader}"),
        EspFile(source=loader, target=f"EFI/BOOT/{usual}"),
    )


def firmware_entries(architecture: str) -> tuple[tuple[str, str], ...]:
    """Names of the firmware's boot entries and what they start, first the loader's."""
    return (
        ("skerry", f"\\EFI\\systemd\\{loader_file(architecture)}"),
        ("skerry recovery", r"\EFI\skerry\recovery.efi"),
    )


# Stands on a disk from the first byte that the installer writes to the last. It lies between the
# partition table and the first partition.
MARK_OFFSET = 512 * 1024
MARK = b"skerry: an installation that has not come to its end\n".ljust(512, b"\0")
