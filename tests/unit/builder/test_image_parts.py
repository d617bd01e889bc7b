"""The parts of an image's build that need neither root nor packages."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from skerry.builder.image import disk, efilists, keys
from skerry.builder.image.errors import ImageBuildFailed, KeysUnusable
from skerry.builder.image.initrd import copy_files, entries_of, write_cpio
from skerry.builder.image.inputs import load_definition, load_distribution
from skerry.builder.image.modules import closure
from skerry.builder.image.root import inside, leave_out, place_file, take_rights, tree_digest
from skerry.builder.image.trees import packages_in_listing, packages_in_status
from skerry.builder.image.users import Accounts
from skerry.lib import pki
from skerry.model.image import Enroll, ImageFile, ImageUser
from skerry.model.problems import DocumentInvalid
from skerry.plan.disklayout import Sizes, sfdisk_script

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)

DEPENDENCIES = """\
kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/fs/mbcache.ko.xz
kernel/fs/jbd2/jbd2.ko.xz:
kernel/fs/mbcache.ko.xz:
kernel/drivers/md/dm-verity.ko.xz: kernel/drivers/md/dm-mod.ko.xz
kernel/drivers/md/dm-mod.ko.xz:
kernel/crypto/crc32c_generic.ko.xz:
"""


# -- kernel modules --------------------------------------------------------------------------


def test_modules_come_with_what_they_depend_on() -> None:
    paths, missing = closure(
        DEPENDENCIES, "softdep ext4 pre: crc32c-generic nowhere\n", ["ext4", "dm_verity", "nvme"]
    )

    assert [path.rpartition("/")[2] for path in paths] == [
        "crc32c_generic.ko.xz",
        "dm-mod.ko.xz",
        "dm-verity.ko.xz",
        "ext4.ko.xz",
        "jbd2.ko.xz",
        "mbcache.ko.xz",
    ]
    assert missing == ["nvme"]


# -- trees -----------------------------------------------------------------------------------


def test_own_files_keep_links_and_the_x_bit_and_nothing_else(tmp_path: Path) -> None:
    source, tree = tmp_path / "source", tmp_path / "tree"
    (source / "usr/lib/x.target.wants").mkdir(parents=True)
    (source / "usr/empty").mkdir()
    (source / "usr/empty/.keep").touch()
    (source / "usr/lib/run").write_text("#!/bin/sh\n")
    (source / "usr/lib/run").chmod(0o700)
    (source / "usr/lib/x.service").write_text("[Unit]\n")
    (source / "usr/lib/x.target.wants/x.service").symlink_to("../x.service")
    tree.mkdir()

    copy_files(source, tree)

    assert (tree / "usr/lib/run").stat().st_mode & 0o7777 == 0o755
    assert (tree / "usr/lib/x.service").stat().st_mode & 0o7777 == 0o644
    assert os.readlink(tree / "usr/lib/x.target.wants/x.service") == "../x.service"
    assert list((tree / "usr/empty").iterdir()) == []


def test_a_link_to_a_unit_that_an_archive_made_a_file_is_a_link_again(tmp_path: Path) -> None:
    for name, link in (("one", True), ("two", False)):
        folder = tmp_path / name / "x.target.wants"
        folder.mkdir(parents=True)
        (tmp_path / name / "x.service").write_text("[Unit]\n")
        if link:
            (folder / "x.service").symlink_to("../x.service")
        else:
            (folder / "x.service").write_text("[Unit]\n")

    assert entries_of(tmp_path / "one") == entries_of(tmp_path / "two")


def test_what_matches_is_left_out_with_all_below(tmp_path: Path) -> None:
    for name in ("usr/share/doc/a/copyright", "usr/share/doc/a/README", "var/log/apt/x", "etc/a-"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    leave_out(tmp_path, load_distribution("debian", "trixie").root_left_out)

    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"usr/share/doc/a/copyright"}
    assert (tmp_path / "var/log").is_dir()


def test_only_known_programs_lose_their_rights(tmp_path: Path) -> None:
    for name in ("usr/bin/su", "usr/bin/own-su"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o4755)

    take_rights(tmp_path, load_distribution("debian", "trixie").unprivileged)

    assert (tmp_path / "usr/bin/su").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "usr/bin/own-su").stat().st_mode & 0o7777 == 0o4755


@pytest.mark.parametrize("change", ["content", "mode", "name", "link"])
def test_the_digest_of_a_tree_sees_every_change(tmp_path: Path, change: str) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "l").symlink_to("a")
    before = tree_digest(tmp_path)

    if change == "content":
        (tmp_path / "a").write_text("2")
    elif change == "mode":
        (tmp_path / "a").chmod(0o600)
    elif change == "name":
        (tmp_path / "a").rename(tmp_path / "b")
    else:
        (tmp_path / "l").unlink()
        (tmp_path / "l").symlink_to("b")

    assert tree_digest(tmp_path) != before


def test_the_digest_of_a_tree_does_not_see_times(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = tree_digest(tmp_path)

    os.utime(tmp_path / "a", (1, 1))

    assert tree_digest(tmp_path) == before


def test_a_files_place_follows_links_inside_the_tree_only(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "abs").symlink_to("/usr/lib")
    (tmp_path / "out").symlink_to("../../..")
    (tmp_path / "loop").symlink_to("loop")

    assert inside(tmp_path, "/lib/x") == tmp_path / "usr/lib/x"
    assert inside(tmp_path, "/abs/x") == tmp_path / "usr/lib/x"
    for path in ("/out/x", "/loop/x"):
        with pytest.raises(ImageBuildFailed):
            inside(tmp_path, path)


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is the second reader")
def test_equal_folders_make_equal_archives_that_cpio_reads(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tree = tmp_path / name
        (tree / "bin").mkdir(parents=True)
        (tree / "bin/run").write_text("run")
        (tree / "bin/run").chmod(0o755)
        (tree / "init").symlink_to("bin/run")
        os.utime(tree / "bin/run", (len(name), ord(name[0])))
    archives = []
    for name in ("one", "two"):
        out = io.BytesIO()
        write_cpio(tmp_path / name, out)
        archives.append(out.getvalue())

    listing = subprocess.run(
        ["cpio", "-tv", "--quiet"], input=archives[0], capture_output=True, check=True
    ).stdout.decode()

    assert archives[0] == archives[1]
    assert "init -> bin/run" in listing
    assert "-rwxr-xr-x   1 root     root            3 Jan  1  1970 bin/run" in listing


def test_packages_are_read_from_file_names_and_from_dpkgs_list() -> None:
    listing = packages_in_listing("dmsetup_2%3a1.02.205-2_amd64.deb\npartial\n")
    status = packages_in_status(
        "Package: a\nStatus: install ok installed\nVersion: 1:2-3\n\n"
        "Package: b\nStatus: deinstall ok config-files\nVersion: 1\n"
    )

    assert [(one.name, one.version) for one in listing] == [("dmsetup", "2:1.02.205-2")]
    assert [(one.name, one.version) for one in status] == [("a", "1:2-3")]


# -- users -----------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "etc/ssh/sshd_config.d").mkdir(parents=True)
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tmp_path / "etc/shadow").write_text("root:*:20000:0:99999:7:::\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nadm:x:4:syslog\n")
    (tmp_path / "etc/gshadow").write_text("root:*::\nadm:*::\n")
    return tmp_path


def test_a_user_has_no_password_unless_one_is_given(tree: Path) -> None:
    accounts = Accounts(tree)
    accounts.add(ImageUser(name="ada", groups=("adm",), ssh_keys=("ssh-ed25519 AAAA ada",)))
    accounts.add(ImageUser(name="bob", password_hash="$6$salt$hash"))

    accounts.write()

    assert "ada:!::0:99999:7:::" in (tree / "etc/shadow").read_text()
    assert "bob:$6$salt$hash::0:99999:7:::" in (tree / "etc/shadow").read_text()
    assert "adm:x:4:syslog,ada\n" in (tree / "etc/group").read_text()
    assert "bob:x:1001:1001::/home/bob:/bin/sh" in (tree / "etc/passwd").read_text()
    assert (tree / "etc/ssh/authorized_keys.d/ada").read_text() == "ssh-ed25519 AAAA ada\n"
    assert (
        "PasswordAuthentication no" in (tree / "etc/ssh/sshd_config.d/10-skerry.conf").read_text()
    )


def test_a_user_or_group_that_is_not_there_is_named(tree: Path) -> None:
    accounts = Accounts(tree)

    with pytest.raises(ImageBuildFailed, match="no group wheel"):
        accounts.add(ImageUser(name="ada", groups=("wheel",)))
    with pytest.raises(ImageBuildFailed, match="no user eve"):
        place_file(ImageFile(path="/etc/x", owner="eve", content=""), tree, tree, accounts)


# -- definitions -----------------------------------------------------------------------------


def test_a_source_that_is_not_there_is_a_problem_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "image.yaml"
    file.write_text(
        "kind: Image\nmetadata: {name: shop}\nspec:\n  version: 1.0.0\n"
        "  files:\n  - {path: /etc/motd, source: motd}\n"
    )

    with pytest.raises(DocumentInvalid, match=r"spec\.files\[0\]\.source: there is no file motd"):
        load_definition(file)


@pytest.mark.parametrize("text", ["{", "a: &x [1]\nb: *x\n", "\x00", "- 1"])
def test_what_is_no_definition_is_refused_without_a_traceback(tmp_path: Path, text: str) -> None:
    file = tmp_path / "image.yaml"
    file.write_text(text)

    with pytest.raises(DocumentInvalid):
        load_definition(file)


def test_an_unknown_base_names_those_there_are() -> None:
    with pytest.raises(DocumentInvalid) as caught:
        load_distribution("debian", "sid")

    assert "debian-trixie" in caught.value.hint


# -- keys ------------------------------------------------------------------------------------


def test_keys_are_private_and_never_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keys.create_keys(folder, organisation="Shop", now=NOW)

    open_to_others = [path.name for path in folder.rglob("*.key") if path.stat().st_mode & 0o077]
    assert open_to_others == []
    assert folder.joinpath("offline").stat().st_mode & 0o077 == 0
    with pytest.raises(KeysUnusable, match="not empty"):
        keys.create_keys(folder, organisation="Shop", now=NOW)


def test_a_build_needs_the_online_keys_only(tmp_path: Path) -> None:
    keys.create_keys(tmp_path / "keys", organisation="Shop", now=NOW)

    found = keys.open_keys(tmp_path / "keys" / "online")

    assert found.generation == 1
    assert {path.name for path in found.folder.glob("*.key")} == {
        "db.key",
        "verity.key",
        "pcr-1.key",
    }


def test_the_next_policy_key_is_used_from_then_on(tmp_path: Path) -> None:
    keys.create_keys(tmp_path / "keys", organisation="Shop", now=NOW)
    before = keys.open_keys(tmp_path / "keys").marks()

    number = keys.add_policy_key(tmp_path / "keys")

    after = keys.open_keys(tmp_path / "keys")
    assert (number, after.generation) == (2, 2)
    assert after.marks()["pcr"] != before["pcr"]
    assert after.marks()["db"] == before["db"]


def test_missing_keys_are_named(tmp_path: Path) -> None:
    keys.create_keys(tmp_path / "keys", organisation="Shop", now=NOW)
    (tmp_path / "keys/online/db.crt").unlink()
    (tmp_path / "keys/online/KEK.auth").unlink()

    with pytest.raises(KeysUnusable, match=r"db\.crt, KEK\.auth"):
        keys.open_keys(tmp_path / "keys")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is the second reader")
def test_a_signed_list_verifies_with_its_signer_and_holds_the_certificate(tmp_path: Path) -> None:
    keys.create_keys(tmp_path / "keys", organisation="Shop", now=NOW)
    online = tmp_path / "keys/online"
    data = (online / "db.auth").read_bytes()
    size = int.from_bytes(data[16:20], "little")
    signature, content = data[16 + 24 : 16 + size], data[16 + size :]
    time = data[:16]
    signed = (
        "db".encode("utf-16-le")
        + efilists._SECURITY.bytes_le
        + efilists.ATTRIBUTES.to_bytes(4, "little")
        + time
        + content
    )
    # OpenSSL wants the wrapping that firmware does not.
    oid = bytes.fromhex("06092a864886f70d010702")
    inner = _der(0xA0, signature)
    (tmp_path / "signature").write_bytes(_der(0x30, oid + inner))
    (tmp_path / "signed").write_bytes(signed)

    done = subprocess.run(
        [
            *("openssl", "smime", "-verify", "-inform", "der", "-binary", "-noverify"),
            *("-in", tmp_path / "signature", "-content", tmp_path / "signed"),
            *("-certfile", online / "exchange.crt", "-out", os.devnull),
        ],
        capture_output=True,
        check=False,
    )

    certificate = pki.load_certificate((online / "db.crt").read_bytes())
    assert done.returncode == 0, done.stderr
    assert content.endswith(certificate.public_bytes(serialization.Encoding.DER))


def _der(tag: int, body: bytes) -> bytes:
    size = len(body).to_bytes(4, "big")
    return bytes([tag, 0x84]) + size + body


# -- disk ------------------------------------------------------------------------------------


def test_identifiers_of_a_disk_follow_from_its_content() -> None:
    script = sfdisk_script(Sizes())

    one, same, other = (disk.with_identifiers(script, seed) for seed in ("a", "a", "b"))

    assert one == same
    assert one != other
    assert one.count("uuid=") == 7
    assert len(set(one.split("uuid=")[1:])) == 7


def test_holes_stay_holes_when_a_part_is_copied_in(tmp_path: Path) -> None:
    part, whole = tmp_path / "part", tmp_path / "whole"
    with part.open("wb") as writing:
        writing.truncate(64 * 1024 * 1024)
        writing.seek(32 * 1024 * 1024)
        writing.write(b"middle")
    with whole.open("wb") as writing:
        writing.truncate(128 * 1024 * 1024)

    disk.copy_into(part, whole, at=1024 * 1024)

    with whole.open("rb") as reading:
        reading.seek(33 * 1024 * 1024)
        assert reading.read(8) == b"middle\0\0"
    assert whole.stat().st_blocks * 512 < 8 * 1024 * 1024


@pytest.mark.parametrize(
    ("enroll", "word"),
    [(Enroll.VIRTUAL, "if-safe"), (Enroll.ALWAYS, "force"), (Enroll.NEVER, "off")],
)
def test_the_loader_shows_no_menu_and_enrols_as_told(enroll: Enroll, word: str) -> None:
    text = disk.loader_settings(enroll)

    assert "timeout 0" in text
    assert "editor no" in text
    assert f"secure-boot-enroll {word}" in text
