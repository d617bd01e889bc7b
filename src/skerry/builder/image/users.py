"""Users and groups of an image's tree, by its files (passwd(5), shadow(5), group(5)).

Home folders lie on the state partition and are made at the start of the system; keys for SSH are
part of the image, where only a new image changes them.
"""

from __future__ import annotations

from pathlib import Path

from skerry.builder.image.errors import ImageBuildFailed
from skerry.model.image import ImageUser

KEYS_FOLDER = "etc/ssh/authorized_keys.d"
_FIRST_ID = 1000
_SSHD = f"""\
AuthorizedKeysFile /{KEYS_FOLDER}/%u .ssh/authorized_keys
PasswordAuthentication no
PermitRootLogin no
KbdInteractiveAuthentication no
"""


class Accounts:
    """The users of a tree, read at once and written at the end."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._files = {
            name: (tree / "etc" / name).read_text().splitlines()
            if (tree / "etc" / name).exists()
            else []
            for name in ("passwd", "shadow", "group", "gshadow")
        }
        self._keys: dict[str, tuple[str, ...]] = {}

    def user(self, name: str) -> int:
        """Number of a user. Raises ImageBuildFailed."""
        return self._number("passwd", name)

    def group(self, name: str) -> int:
        """Number of a group. Raises ImageBuildFailed."""
        return self._number("group", name)

    def add(self, user: ImageUser) -> None:
        """Add a user with a group of the same name. Raises ImageBuildFailed."""
        if any(line.startswith(f"{user.name}:") for line in self._files["passwd"]):
            raise ImageBuildFailed(
                f"user {user.name} is there already, a package brought it",
                hint="choose another name",
            )
        number = self._free()
        self._files["group"].append(f"{user.name}:x:{number}:")
        self._files["gshadow"].append(f"{user.name}:!::")
        self._files["passwd"].append(
            f"{user.name}:x:{number}:{number}::/home/{user.name}:{user.shell}"
        )
        self._files["shadow"].append(f"{user.name}:{user.password_hash or '!'}::0:99999:7:::")
        for name in user.groups:
            self.group(name)
            for place in ("group", "gshadow"):
                self._files[place] = [_joined(line, name, user.name) for line in self._files[place]]
        self._keys[user.name] = user.ssh_keys

    def write(self) -> None:
        """Write what was added."""
        if not self._keys:
            return
        for name, lines in self._files.items():
            place = self._tree / "etc" / name
            mode = place.stat().st_mode & 0o777 if place.exists() else 0o640
            place.write_text("".join(f"{line}\n" for line in lines))
            place.chmod(mode)
        homes = "".join(f"d /home/{name} 0700 {name} {name}\n" for name in sorted(self._keys))
        _write(self._tree / "usr/lib/tmpfiles.d/skerry-homes.conf", homes)
        for name, keys in self._keys.items():
            if keys:
                _write(self._tree / KEYS_FOLDER / name, "".join(f"{key}\n" for key in keys))
        if any(self._keys.values()) and (self._tree / "etc/ssh/sshd_config.d").is_dir():
            _write(self._tree / "etc/ssh/sshd_config.d/10-skerry.conf", _SSHD)

    def _number(self, file: str, name: str) -> int:
        for line in self._files[file]:
            fields = line.split(":")
            if fields[0] == name:
                return int(fields[2])
        raise ImageBuildFailed(
            f"there is no {'user' if file == 'passwd' else 'group'} {name} in the image",
            hint="add it to spec.users, or the package that makes it to spec.packages",
        )

    def _free(self) -> int:
        taken = {
            int(line.split(":")[2])
            for file in ("passwd", "group")
            for line in self._files[file]
            if line.count(":") >= 2
        }
        return next(number for number in range(_FIRST_ID, 60000) if number not in taken)


def _joined(line: str, group: str, user: str) -> str:
    fields = line.split(":")
    if fields[0] != group:
        return line
    fields[-1] = ",".join([*filter(None, fields[-1].split(",")), user])
    return ":".join(fields)


def _write(place: Path, text: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
