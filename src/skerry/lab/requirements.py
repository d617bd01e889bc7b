"""The Debian packages that the lab needs on this computer, as data for `./dev`.

Kept free of imports, so that it can be read before the environment exists.
"""

from __future__ import annotations

PACKAGES = (
    "bash",
    "debian-archive-keyring",
    "iproute2",
    "mmdebstrap",
    "nftables",
    "systemd-container",
    "util-linux",
)

# Program that proves its package, for the message on systems without dpkg.
PROGRAMS = {
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "nsenter": "util-linux",
    "systemd-nspawn": "systemd-container",
    "unshare": "util-linux",
}
