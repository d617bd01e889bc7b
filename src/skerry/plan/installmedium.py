"""What lies on an installation medium, and what the installer makes of it on a disk.

Shared by the builder, which makes media, and the installer. The medium is a disk with a GPT and
three partitions: a vfat one that starts the live system and holds the files below, and the exact
bytes of the root and of its tree of hashes.
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
LOADER = "systemd-bootx64.efi"
LOADER_SETTINGS = "loader.conf"
KEYS = "keys"

MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_KEY_FILES = 32


class EspFile(Record, frozen=True, kw_only=True):
    """A file of the medium's folder and its place on the installed `skerry-esp`."""

    source: str
    target: str


# In the order in which they are written: the loader last, so that the firmware passes over an ESP
# that is not complete. The loader finds recovery only through the firmware, never as an entry.
ESP_FILES = (
    EspFile(source=RECOVERY_IMAGE, target="EFI/skerry/recovery.efi"),
    EspFile(source=LOADER_SETTINGS, target="loader/loader.conf"),
    EspFile(source=LOADER, target="EFI/systemd/systemd-bootx64.efi"),
    EspFile(source=LOADER, target="EFI/BOOT/BOOTX64.EFI"),
)
KEYS_TARGET = "loader/keys"

# Names of the firmware's boot entries, first that of the loader.
FIRMWARE_ENTRIES = (
    ("skerry", r"\EFI\systemd\systemd-bootx64.efi"),
    ("skerry recovery", r"\EFI\skerry\recovery.efi"),
)

# Stands on a disk from the first byte that the installer writes to the last. It lies between the
# partition table and the first partition.
MARK_OFFSET = 512 * 1024
MARK = b"skerry: an installation that has not come to its end\n".ljust(512, b"\0")
