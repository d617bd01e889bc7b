"""The list that images are measured by: a good image passes all, each flaw fails its own item."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from skerry.builder.image.checks import CHECKS, ImageView, check_image
from skerry.builder.image.errors import ImageBuildFailed
from skerry.builder.image.initrd import copy_files
from skerry.builder.image.inputs import appliance_folder
from skerry.builder.image.inspect import newest_entry
from skerry.builder.image.pe import NotABootImage, sections
from skerry.model.image import ImageSpec, ImageUser
from skerry.plan.bootentries import BootEntry, render

ARGUMENTS = ("panic=10", "quiet", "lockdown=integrity", f"roothash={'a' * 64}")
SEALED = dict.fromkeys(("verity", "uki", "loader", "recovery", "signature", "policy"), "")
ASKED = ImageSpec(version="1.0.0")
MASKED = (
    "systemd-bless-boot.service",
    "systemd-boot-update.service",
    "ldconfig.service",
    "getty@.service",
    "serial-getty@.service",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The appliance's own files, and the few of Debian's that are looked at."""
    place = tmp_path / "tree"
    place.mkdir()
    copy_files(appliance_folder("root"), place)
    for name in ("etc/systemd/system", "usr/sbin", "tmp"):
        (place / name).mkdir(parents=True, exist_ok=True)
    (place / "tmp").chmod(0o1777)
    for name, text in {
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/usr/sbin/nologin\n",
        "etc/shadow": "root:*:20000:0:99999:7:::\ndaemon:*:20000:0:99999:7:::\n",
        "etc/machine-id": "uninitialized\n",
        "usr/lib/os-release": "ID=debian\nVARIANT_ID=skerry-appliance\n",
        "usr/lib/systemd/system/tmp.mount": "[Mount]\nOptions=mode=1777,nosuid,nodev\n",
    }.items():
        (place / name).write_text(text)
    for unit in MASKED:
        (place / "etc/systemd/system" / unit).symlink_to("/dev/null")
    return place


def failed(
    tree: Path,
    *,
    arguments: tuple[str, ...] = ARGUMENTS,
    asked: ImageSpec = ASKED,
    sealed: dict[str, str] = SEALED,
) -> set[str]:
    report = check_image(
        ImageView(tree=tree, arguments=arguments, asked=asked, sealed=dict(sealed))
    )
    return {verdict.check.id for verdict in report.verdicts if not verdict.passed}


def test_a_good_image_passes_everything(tree: Path) -> None:
    assert failed(tree) == set()


def test_every_item_has_its_own_name_and_a_reason() -> None:
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    assert all(check.reason for check in CHECKS)


def append(path: str, text: str) -> Callable[[Path], None]:
    def change(tree: Path) -> None:
        place = tree / path
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("a") as writing:
            writing.write(text)

    return change


def mode(path: str, value: int) -> Callable[[Path], None]:
    def change(tree: Path) -> None:
        place = tree / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        place.chmod(value)

    return change


def unmask(unit: str) -> Callable[[Path], None]:
    return lambda tree: (tree / "etc/systemd/system" / unit).unlink()


def want(unit: str) -> Callable[[Path], None]:
    def change(tree: Path) -> None:
        folder = tree / "etc/systemd/system/multi-user.target.wants"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / unit).symlink_to(f"/usr/lib/systemd/system/{unit}")

    return change


@pytest.mark.parametrize(
    ("change", "item"),
    [
        (append("etc/shadow", "ada:$6$salt$hash::0:99999:7:::\n"), "passwords"),
        (append("etc/shadow", "ada:oldstyle::0:99999:7:::\n"), "passwords"),
        (append("etc/passwd", "ada:$1$a$b:1000:1000::/:/bin/sh\n"), "passwords"),
        (append("etc/shadow", "ada:::0:99999:7:::\n"), "empty-passwords"),
        (append("usr/sbin/sshd", ""), "ssh"),
        (want("ssh.service"), "ssh"),
        (append("etc/passwd", "toor:x:0:0::/root:/bin/sh\n"), "one-root"),
        (append("etc/ssl/own.key", "-----BEGIN PRIVATE KEY-----\n"), "secrets"),
        (lambda tree: (tree / "etc/machine-id").write_text("a" * 32), "identity"),
        (unmask("systemd-bless-boot.service"), "masked-units"),
        (unmask("getty@.service"), "no-prompt"),
        (want("debug-shell.service"), "no-back-door"),
        (mode("usr/bin/su", 0o4755), "no-setuid"),
        (mode("usr/bin/wall", 0o2755), "no-setuid"),
        (mode("etc/open", 0o666), "no-world-writable"),
        (append("etc/sysctl.d/99.conf", "vm.overcommit_memory=0\n"), "kubernetes-settings"),
        (append("etc/sysctl.d/99.conf", "kernel/kptr_restrict = 0\n"), "kernel-settings"),
        (lambda tree: (tree / "usr/lib/modprobe.d/skerry.conf").unlink(), "unused-modules"),
        (
            lambda tree: (tree / "usr/lib/systemd/system/tmp.mount").write_text("[Mount]\n"),
            "mount-options",
        ),
        (lambda tree: shutil.rmtree(tree / "usr/lib/systemd/journald.conf.d"), "log-kept"),
        (lambda tree: shutil.rmtree(tree / "usr/lib/systemd/system.conf.d"), "watchdog"),
    ],
)
def test_each_flaw_fails_its_own_item(
    tree: Path, change: Callable[[Path], None], item: str
) -> None:
    change(tree)

    assert failed(tree) == {item}


@pytest.mark.parametrize(
    ("arguments", "item"),
    [
        (ARGUMENTS[:-1], "read-only"),
        ((*ARGUMENTS, "rw"), "read-only"),
        ((*ARGUMENTS, "lockdown=none"), "lockdown"),
        ((*ARGUMENTS, "panic=0"), "panic-restarts"),
        ((*ARGUMENTS, "rd.break"), "no-back-door"),
        ((*ARGUMENTS, "systemd.debug_shell=1"), "no-back-door"),
        ((*ARGUMENTS, "init=/bin/sh"), "no-back-door"),
        ((*ARGUMENTS, "mitigations=off"), "mitigations"),
    ],
)
def test_each_bad_argument_fails_its_own_item(
    tree: Path, arguments: tuple[str, ...], item: str
) -> None:
    assert failed(tree, arguments=arguments) == {item}


@pytest.mark.parametrize(
    ("part", "item"),
    [
        ("verity", "verity"),
        ("uki", "boot-signed"),
        ("loader", "loader-signed"),
        ("recovery", "recovery-signed"),
        ("signature", "root-signed"),
        ("policy", "policy-signed"),
    ],
)
def test_a_missing_signature_fails_its_own_item(tree: Path, part: str, item: str) -> None:
    assert failed(tree, sealed={**SEALED, part: "is not signed"}) == {item}
    assert failed(tree, sealed={k: v for k, v in SEALED.items() if k != part}) == {item}


def test_what_the_definition_asks_for_is_no_flaw(tree: Path) -> None:
    append("etc/shadow", "ada:$6$salt$hash::0:99999:7:::\n")(tree)
    append("usr/sbin/sshd", "")(tree)
    want("ssh.service")(tree)
    asked = ImageSpec(
        version="1.0.0",
        packages=("openssh-server",),
        users=(ImageUser(name="ada", password_hash="$6$salt$hash"),),
    )

    assert failed(tree, asked=asked) == set()


def test_another_password_than_the_one_asked_for_is_a_flaw(tree: Path) -> None:
    append("etc/shadow", "ada:$6$salt$other::0:99999:7:::\n")(tree)
    asked = ImageSpec(version="1.0.0", users=(ImageUser(name="ada", password_hash="$6$salt$hash"),))

    assert failed(tree, asked=asked) == {"passwords"}


def test_passwords_and_ssh_fail_an_image_whatever_its_score(tree: Path) -> None:
    append("usr/sbin/sshd", "")(tree)

    report = check_image(ImageView(tree, ARGUMENTS, ASKED, dict(SEALED)))

    assert report.score > 90
    assert [verdict.check.id for verdict in report.grave] == ["ssh"]


# -- taking an image apart -------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"MZ", b"MZ" + bytes(62), b"ELF" * 100])
def test_what_is_no_boot_image_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "uki.efi").write_bytes(data)

    with pytest.raises(NotABootImage):
        sections(tmp_path / "uki.efi")


def entry(generation: int, slot: str) -> BootEntry:
    return BootEntry(
        generation=generation,
        slot=slot,
        name="shop",
        version="1.0.0",
        root_hash="a" * 64,
        root_uuid="",
        verity_uuid="",
        uki=f"EFI/skerry/{slot}.efi",
    )


def test_the_newest_entry_that_was_not_rolled_back_is_looked_at(tmp_path: Path) -> None:
    for name, found in (
        ("skerry-000001.conf", entry(1, "a")),
        ("skerry-000002+2-1.conf", entry(2, "b")),
        ("skerry-000003+0-3.conf", entry(3, "a")),
    ):
        (tmp_path / name).write_text(render(found))

    assert newest_entry(tmp_path).slot == "b"


def test_an_entry_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "skerry-000001.conf").write_text(render(entry(1, "../../etc")))

    with pytest.raises(ImageBuildFailed, match="odd slot"):
        newest_entry(tmp_path)
