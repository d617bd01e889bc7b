"""The one line that makes a machine a host, and the script behind it.

curl cannot pin a root by its digest, so the line carries the root itself: it writes it to a file,
fetches the script with that root only, compares the script's digest, and runs it. The token goes
by environment; it is never an argument of any program. So does a proxy, which may hold a password.
"""

from __future__ import annotations

import base64
import shlex
from importlib.resources import files

from skerry.lib.digest import sha256
from skerry.manager.services.centre import Centre

SCRIPT_PATH = "/install.sh"
ARCHIVE_PATH = "/agent/{architecture}/skerry-agent.tar.gz"
ARCHITECTURES = ("amd64", "arm64")

# curl reads them; what the machine excepts from its own proxy does not count for the manager.
# What the script reads from the environment.
_GIVEN = "SKERRY_TOKEN,SKERRY_PAIRING_KEY,SKERRY_PROXY"
_USE_PROXY = 'export https_proxy="$SKERRY_PROXY"; unset no_proxy NO_PROXY'


def archive_place(architecture: str) -> str:
    """Where the archive lies in the data folder."""
    return f"/agent/{architecture}/skerry-agent.tar.gz"


def digest_place(architecture: str) -> str:
    """Where the archive's digest lies in the data folder."""
    return f"/agent/{architecture}/sha256"


def script(centre: Centre) -> bytes:
    """install.sh with this manager's address, root and archive digests in it."""
    text = files("skerry.manager").joinpath("install.sh").read_text()
    digests = {
        name: centre.root.read(digest_place(name)).decode().strip()
        for name in ARCHITECTURES
        if centre.root.exists(digest_place(name))
    }
    cases = "\n".join(
        f"  {name}) digest={digest.removeprefix('sha256:')} ;;" for name, digest in digests.items()
    )
    return (
        text.replace("@MANAGER@", shlex.quote(centre.url))
        .replace("@CASES@", cases)
        .replace("@AUTHORITIES@", "\n".join(centre.keys.authorities).strip())
        .encode()
    )


def install_line(centre: Centre, secret: str = "", *, proxy: str = "") -> str:
    """What a person pastes on the machine, as root or as somebody who may use sudo.

    `secret` is a registration token; without one the host waits for a person, or brings a pairing
    key that the caller puts before the line as SKERRY_PAIRING_KEY. With `proxy`, line and script
    fetch through it, and the agent keeps it.
    """
    wanted = sha256(script(centre)).removeprefix("sha256:")
    root = base64.b64encode("\n".join(centre.keys.authorities).encode()).decode()
    inner = "; ".join(
        (
            "set -e",
            *([_USE_PROXY] if proxy else ()),
            "d=$(mktemp -d)",
            "trap 'rm -rf \"$d\"' EXIT",
            f'echo {root} | base64 -d > "$d/ca.pem"',
            f'curl -fsS --cacert "$d/ca.pem" -o "$d/install.sh" {centre.url}{SCRIPT_PATH}',
            f'echo "{wanted}  $d/install.sh" | sha256sum -c - > /dev/null',
            f's=; [ "$(id -u)" = 0 ] || s="sudo --preserve-env={_GIVEN}"',
            '$s sh "$d/install.sh"',
        )
    )
    given = f"SKERRY_TOKEN={secret} " if secret else ""
    given += f"SKERRY_PROXY={shlex.quote(proxy)} " if proxy else ""
    return f"{given}sh -c {shlex.quote(inner)}"
