"""Upstream's addresses and the lock: complete, consistent, and strict about what they read."""

from __future__ import annotations

import pytest

from skerry.builder.recipes import known_versions, release_table
from skerry.builder.upstream import (
    ARCHITECTURES,
    Lock,
    Locked,
    LockInvalid,
    NotLocked,
    digest_in,
    encode_lock,
    entries,
    merged,
    needs_of,
    official_sources,
    own_lock,
    parse_lock,
    require_locked,
)
from skerry.lib.digest import sha256
from skerry.model.release import check_path

A, B = sha256(b"a"), sha256(b"b")


@pytest.mark.parametrize("version", known_versions())
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_release_has_the_same_files_as_a_built_one(version: str, architecture: str) -> None:
    table = release_table(version)

    needs = needs_of(table, architecture)

    assert {path for path in needs.placed if not path.startswith("sbom/")} == table.files.keys()
    assert all(item.source in needs.files for item in needs.placed.values())
    assert needs.images == {name: image.name for name, image in table.images.items()}
    for path in needs.placed:
        check_path(path)
    for need in needs.files.values():
        assert "{" not in f"{need.url}{need.checksums}"
        assert need.url.startswith("https://")
        assert need.version in need.url
        assert need.architecture in (architecture, "any")


def test_no_two_files_of_a_release_share_an_address() -> None:
    urls = [need.url for need in needs_of(release_table("1.36.3"), "arm64").files.values()]

    assert len(set(urls)) == len(urls)


def test_skerrys_own_lock_names_only_what_some_release_needs() -> None:
    known = {
        title
        for version in known_versions()
        for architecture in ARCHITECTURES
        for needs in [needs_of(release_table(version), architecture)]
        for title in (
            *(need.title for need in needs.files.values()),
            *(f"image {name}" for name in needs.images.values()),
        )
    }

    listed = dict(entries(own_lock()))
    assert listed.keys() <= known
    assert all(locked.origin for locked in listed.values())


def test_what_is_not_checked_is_named_by_kind() -> None:
    told = needs_of(release_table("1.36.3"), "amd64").unchecked()

    assert told == [
        "cosign (keyless): kubeadm, kubelet, kubectl, kubernetes-sbom, all images",
        "GitHub attestation: containerd",
        "OpenPGP: runc, helm",
    ]


@pytest.mark.parametrize(
    "text",
    [
        f"{A[7:]}\n",
        f"{A[7:].upper()}  kubeadm\n",
        f"{B[7:]}  kubectl\n{A[7:]} *kubeadm\n",
        f"{A[7:]}  ./out/linux/kubeadm\n",
        f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{A[7:]}  kubeadm\n-----BEGIN PGP",
    ],
)
def test_a_checksum_is_found_in_every_form_that_upstream_writes(text: str) -> None:
    assert digest_in(text, name="kubeadm") == A


@pytest.mark.parametrize(
    "text",
    ["", "<html>sign in</html>", f"{A[7:]}  kubeadm.sig\n", f"{A[7:-1]}\n", f"{A[7:]} x kubeadm\n"],
)
def test_a_checksum_of_something_else_is_not_taken(text: str) -> None:
    assert digest_in(text, name="kubeadm") is None


def test_a_lock_reads_back_as_it_was_written() -> None:
    lock = (
        Lock()
        .with_file("cni", "1.10", "arm64", Locked(digest=A, origin="x: y"))
        .with_file("cni", "1.10", "amd64", Locked(digest=B, origin="x"))
        .with_image("r.example/p:1", Locked(digest=B, origin="z"))
    )

    assert parse_lock(encode_lock(lock), where="here") == lock
    assert "1.10" in encode_lock(lock)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("files: [", "cannot be read"),
        ("file: {}", "unknown field"),
        ("images: {}\nimages: {}", "'images' stands twice"),
        ("schema: 2", "has schema 2, wanted 1"),
        ("images: {x: {digest: 'sha256:12', from: y}}", "digest of image x is not sha256:"),
        ("files: {f: {'1': {amd64: {digest: 'md5:1', from: y}}}}", r"digest of f 1 \(amd64\)"),
    ],
)
def test_a_lock_that_is_none_is_refused_with_its_name(text: str, says: str) -> None:
    with pytest.raises(LockInvalid, match=rf"(?s)lock file mine\.yaml.*{says}"):
        parse_lock(text, where="mine.yaml")


def test_an_empty_lock_file_is_a_lock() -> None:
    assert parse_lock("", where="x") == Lock()


def test_a_second_lock_adds_and_never_overrules() -> None:
    ours = Lock().with_file("runc", "1", "amd64", Locked(digest=A, origin="ours"))
    more = Lock().with_file("runc", "2", "amd64", Locked(digest=B, origin="mine"))
    other = Lock().with_file("runc", "1", "amd64", Locked(digest=B, origin="mine"))

    both = merged(ours, more, where="mine.yaml")
    with pytest.raises(LockInvalid) as caught:
        merged(ours, other, where="mine.yaml")

    assert [title for title, _ in entries(both)] == ["runc 1 (amd64)", "runc 2 (amd64)"]
    assert caught.value.message == (
        f"runc 1 (amd64) has two digests: {B} in mine.yaml, {A} in skerry's own lock (ours)"
    )


def test_a_release_is_only_fetched_when_every_digest_is_known() -> None:
    needs = needs_of(release_table("1.36.3"), "amd64")
    lock = Lock()
    for need in needs.files.values():
        lock = lock.with_file(*need.key, Locked(digest=A, origin="x"))
    for name in needs.images.values():
        with pytest.raises(NotLocked, match="have no locked digest"):
            require_locked(needs, lock)
        lock = lock.with_image(name, Locked(digest=A, origin="x"))

    require_locked(needs, lock)


def test_limits_are_there_for_every_file() -> None:
    assert all(0 < item.limit_mib <= 500 for item in official_sources().downloads.values())
