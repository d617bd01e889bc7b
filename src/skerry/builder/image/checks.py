"""The list that an image is measured by: each item with its reason, and how it is looked at.

Looking is pure over an image that lies unpacked: a tree of files, the arguments of the boot image
and what signatures said. A grave item fails the image whatever the score; the others count.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from skerry.model.image import ImageSpec

_SSH_SERVERS = ("usr/sbin/sshd", "usr/sbin/dropbear", "usr/sbin/tinysshd")
_SSH_PACKAGES = ("openssh-server", "ssh", "dropbear", "dropbear-bin", "tinysshd")
_UNITS = ("etc/systemd/system", "usr/lib/systemd/system")
_MASKED = ("systemd-bless-boot.service", "systemd-boot-update.service", "ldconfig.service")
_OPEN_HASHES = re.compile(r"[^!*x]")

# What kubelet wants of the kernel with protectKernelDefaults, and pods of the network.
KUBERNETES_SETTINGS = {
    "kernel.panic": "10",
    "kernel.panic_on_oops": "1",
    "kernel.keys.root_maxkeys": "1000000",
    "kernel.keys.root_maxbytes": "25000000",
    "vm.overcommit_memory": "1",
    "vm.panic_on_oom": "0",
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
}
HARDENED_SETTINGS = {
    "kernel.kptr_restrict": "2",
    "kernel.dmesg_restrict": "1",
    "kernel.unprivileged_bpf_disabled": "1",
    "kernel.yama.ptrace_scope": "1",
    "kernel.kexec_load_disabled": "1",
    "kernel.sysrq": "0",
    "fs.protected_hardlinks": "1",
    "fs.protected_symlinks": "1",
    "fs.protected_fifos": "2",
    "fs.protected_regular": "2",
    "fs.suid_dumpable": "0",
    "net.ipv4.conf.all.accept_redirects": "0",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.all.accept_source_route": "0",
    "net.ipv6.conf.all.accept_redirects": "0",
}
_UNUSED_MODULES = ("dccp", "rds", "tipc", "cramfs", "hfsplus", "firewire-core")


@dataclass(frozen=True, slots=True)
class ImageView:
    """An unpacked image. `arguments` are those of the signed boot image; `asked` is what the
    definition says, or what an empty one would; `sealed` maps "verity", "uki", "loader",
    "recovery", "signature" and "policy" to what is wrong with it, empty for nothing."""

    tree: Path
    arguments: tuple[str, ...]
    asked: ImageSpec
    sealed: dict[str, str] = field(default_factory=dict)

    def argument(self, name: str) -> str | None:
        """Value of the last argument of this name, "" for one without value, None for none."""
        found = None
        for word in self.arguments:
            key, _, value = word.partition("=")
            if key == name:
                found = value
        return found

    def text(self, path: str) -> str:
        """A file's text, empty when there is none."""
        place = self.tree / path
        return place.read_text(errors="replace") if place.is_file() else ""


Look = Callable[[ImageView], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Check:
    """One item. `look` yields what is wrong, nothing for a good image."""

    id: str
    reason: str
    look: Look
    grave: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """An item and what was found wrong."""

    check: Check
    findings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.findings


@dataclass(frozen=True, slots=True)
class Report:
    """All verdicts. `score` is the part of items that passed, in percent."""

    verdicts: tuple[Verdict, ...]

    @property
    def score(self) -> int:
        passed = sum(verdict.passed for verdict in self.verdicts)
        return 100 * passed // max(1, len(self.verdicts))

    @property
    def grave(self) -> tuple[Verdict, ...]:
        """Verdicts that fail the image whatever the score."""
        return tuple(one for one in self.verdicts if one.check.grave and not one.passed)


def check_image(view: ImageView) -> Report:
    """Look at every item of the list."""
    return Report(tuple(Verdict(check, tuple(check.look(view))) for check in CHECKS))


def settings_of(view: ImageView) -> dict[str, str]:
    """Kernel settings of sysctl.d(5), later files winning."""
    found: dict[str, str] = {}
    places: dict[str, Path] = {}
    for folder in ("usr/lib/sysctl.d", "etc/sysctl.d"):
        for place in sorted((view.tree / folder).glob("*.conf")):
            places[place.name] = place
    for name in sorted(places):
        for line in places[name].read_text(errors="replace").splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.lstrip().startswith(("#", ";")):
                found[key.strip().lstrip("-").replace("/", ".")] = value.strip()
    return found


def enabled(view: ImageView, unit: str) -> bool:
    """Whether something wants the unit and it is not masked."""
    for folder in _UNITS:
        place = view.tree / folder / unit
        if place.is_symlink() and str(place.readlink()) == "/dev/null":
            return False
        if place.exists() or place.is_symlink():
            break
    # A link into the image leads nowhere here, so only the link itself is looked for.
    return any(
        (wanting / unit).is_symlink() or (wanting / unit).exists()
        for folder in _UNITS
        for kind in ("wants", "requires")
        for wanting in (view.tree / folder).glob(f"*.{kind}")
    )


def _passwords(view: ImageView) -> Iterator[str]:
    asked = {user.name: user.password_hash for user in view.asked.users}
    for line in view.text("etc/shadow").splitlines():
        name, _, rest = line.partition(":")
        secret = rest.partition(":")[0]
        if _OPEN_HASHES.search(secret) and asked.get(name) != secret:
            yield f"{name} has a password that the definition does not give"
    for line in view.text("etc/passwd").splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[1] not in ("x", "*", "!"):
            yield f"{fields[0]} has a password in passwd"


def _no_password(view: ImageView) -> Iterator[str]:
    for line in view.text("etc/shadow").splitlines():
        fields = line.split(":")
        if len(fields) > 1 and not fields[1]:
            yield f"{fields[0]} can log in with an empty password"


def _sshd(view: ImageView) -> Iterator[str]:
    if set(view.asked.packages) & set(_SSH_PACKAGES):
        return
    for program in _SSH_SERVERS:
        if (view.tree / program).exists():
            yield f"/{program} is there, and systemd starts it on sockets by itself"
    for unit in ("ssh.service", "ssh.socket", "sshd.service", "dropbear.service"):
        if enabled(view, unit):
            yield f"{unit} starts"


def _administrators(view: ImageView) -> Iterator[str]:
    for line in view.text("etc/passwd").splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[2] == "0" and fields[0] != "root":
            yield f"{fields[0]} is another name of root"


def _secrets(view: ImageView) -> Iterator[str]:
    for place in (view.tree / "etc").rglob("*"):
        if place.is_symlink() or not place.is_file() or place.stat().st_size > 1024 * 1024:
            continue
        if b"PRIVATE KEY-----" in place.read_bytes():
            yield f"/{place.relative_to(view.tree)} holds a private key, the same on every host"


def _identity(view: ImageView) -> Iterator[str]:
    if view.text("etc/machine-id").strip() not in ("", "uninitialized"):
        yield "/etc/machine-id is set, the same on every host"
    if "VARIANT_ID=skerry-appliance" not in view.text("usr/lib/os-release"):
        yield "os-release does not say that it is an appliance"


def _read_only(view: ImageView) -> Iterator[str]:
    if re.fullmatch(r"[0-9a-f]{64}", view.argument("roothash") or "") is None:
        yield "the boot image names no root hash"
    if "rw" in view.arguments:
        yield "the boot image mounts the root writable"


def _lockdown(view: ImageView) -> Iterator[str]:
    if view.argument("lockdown") not in ("integrity", "confidentiality"):
        yield "lockdown= is not integrity"


def _returns(view: ImageView) -> Iterator[str]:
    if not (view.argument("panic") or "0").lstrip("-").isdigit() or not int(
        view.argument("panic") or "0"
    ):
        yield "panic= is not set, a panic waits for a person"


def _no_back_door(view: ImageView) -> Iterator[str]:
    for word in view.arguments:
        key = word.partition("=")[0]
        if key in ("init", "rdinit", "single", "emergency", "rescue", "1", "s", "S") or key in (
            "rd.break",
            "systemd.debug_shell",
            "rd.systemd.debug_shell",
            "systemd.unit",
        ):
            yield f"argument {word} opens a shell or starts something else"
    if enabled(view, "debug-shell.service"):
        yield "debug-shell.service starts"


def _mitigations(view: ImageView) -> Iterator[str]:
    if view.argument("mitigations") == "off" or "nopti" in view.arguments:
        yield "defences against flaws of the processor are off"


def _masks(view: ImageView) -> Iterator[str]:
    for unit in _MASKED:
        place = view.tree / "etc/systemd/system" / unit
        if not (place.is_symlink() and str(place.readlink()) == "/dev/null"):
            yield f"{unit} is not masked"


def _prompts(view: ImageView) -> Iterator[str]:
    if any(user.password_hash for user in view.asked.users):
        return
    for unit in ("getty@.service", "serial-getty@.service"):
        place = view.tree / "etc/systemd/system" / unit
        if not (place.is_symlink() and str(place.readlink()) == "/dev/null"):
            yield f"{unit} offers a log-in that nobody can use"


def _raised(view: ImageView) -> Iterator[str]:
    for place in view.tree.rglob("*"):
        mode = place.lstat().st_mode
        if stat.S_ISREG(mode) and mode & 0o6000:
            yield f"/{place.relative_to(view.tree)} runs with another's rights"


def _writable(view: ImageView) -> Iterator[str]:
    for place in view.tree.rglob("*"):
        mode = place.lstat().st_mode
        if stat.S_ISLNK(mode) or not mode & 0o002:
            continue
        if not (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
            yield f"/{place.relative_to(view.tree)} can be written by everybody"


def _devices(view: ImageView) -> Iterator[str]:
    for place in view.tree.rglob("*"):
        mode = place.lstat().st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            yield f"/{place.relative_to(view.tree)} is a device"


def _settings(wanted: dict[str, str]) -> Look:
    def look(view: ImageView) -> Iterator[str]:
        found = settings_of(view)
        for key, value in wanted.items():
            if found.get(key) != value:
                yield f"{key} is {found.get(key, 'not set')}, wanted {value}"

    return look


def _modules(view: ImageView) -> Iterator[str]:
    text = "".join(
        place.read_text(errors="replace")
        for place in sorted((view.tree / "usr/lib/modprobe.d").glob("*.conf"))
    )
    for name in _UNUSED_MODULES:
        if not re.search(rf"^install {name} /bin/(false|true)$", text, flags=re.MULTILINE):
            yield f"module {name} can be loaded"


def _mounts(view: ImageView) -> Iterator[str]:
    for unit, wanted in (
        ("boot.mount", ("ro", "nodev", "nosuid", "noexec")),
        ("tmp.mount", ("nodev", "nosuid")),
    ):
        text = view.text(f"usr/lib/systemd/system/{unit}")
        found = re.search(r"^Options=(.*)$", text, flags=re.MULTILINE)
        options = found[1].split(",") if found else []
        for word in wanted:
            if word not in options:
                yield f"{unit} is not mounted {word}"


def _log(view: ImageView) -> Iterator[str]:
    text = view.text("usr/lib/systemd/journald.conf.d/50-skerry.conf")
    for word in ("Storage=persistent", "SystemMaxUse="):
        if word not in text:
            yield f"journald has no {word.rstrip('=')}"


def _watchdog(view: ImageView) -> Iterator[str]:
    if "RuntimeWatchdogSec=" not in view.text("usr/lib/systemd/system.conf.d/50-skerry.conf"):
        yield "no watchdog restarts a machine that hangs"


def _sealed(part: str) -> Look:
    def look(view: ImageView) -> Iterator[str]:
        wrong = view.sealed.get(part, "was not looked at")
        if wrong:
            yield wrong

    return look


CHECKS: tuple[Check, ...] = (
    Check("passwords", "a password in an image is the same on every host", _passwords, grave=True),
    Check("empty-passwords", "an empty password lets everybody in", _no_password, grave=True),
    Check("ssh", "a way in from the network has to be asked for", _sshd, grave=True),
    Check("one-root", "a second name of root is a hidden door", _administrators, grave=True),
    Check("secrets", "a private key in an image is everybody's who has the image", _secrets),
    Check("identity", "identity is made on the host, not in the image", _identity),
    Check("read-only", "what cannot be written cannot be changed to stay", _read_only, grave=True),
    Check("verity", "every block that is read is the one that was built", _sealed("verity")),
    Check("boot-signed", "firmware starts only what the owner signed", _sealed("uki")),
    Check("loader-signed", "the loader is started by firmware, too", _sealed("loader")),
    Check(
        "recovery-signed", "the last way to start has to work with Secure Boot", _sealed("recovery")
    ),
    Check(
        "root-signed", "the kernel can be told to want the hash's signature", _sealed("signature")
    ),
    Check("policy-signed", "only signed measurements may open the state", _sealed("policy")),
    Check("lockdown", "not even root may change the running kernel", _lockdown),
    Check("panic-restarts", "a kernel that stopped has to use up a try of the loader", _returns),
    Check("no-back-door", "the signed command line opens no shell", _no_back_door, grave=True),
    Check("mitigations", "pods of many owners share the processor", _mitigations),
    Check("masked-units", "what would write the image or bless a start is off", _masks),
    Check("no-prompt", "a log-in prompt that nobody can use invites guessing", _prompts),
    Check("no-setuid", "nothing raises rights where only root works", _raised),
    Check("no-world-writable", "what all can write, none can trust", _writable),
    Check("no-devices", "devices are the kernel's to make", _devices),
    Check(
        "kubernetes-settings",
        "kubelet refuses or changes other values",
        _settings(KUBERNETES_SETTINGS),
    ),
    Check(
        "kernel-settings",
        "fewer ways from a pod or a user to the kernel",
        _settings(HARDENED_SETTINGS),
    ),
    Check("unused-modules", "old protocols are old flaws", _modules),
    Check("mount-options", "what lies on writable file systems raises no rights", _mounts),
    Check("log-kept", "what happened is readable after a restart, in bounded space", _log),
    Check("watchdog", "a hang ends in a restart, and so in the other slot", _watchdog),
)
