"""Everything that reads bytes from elsewhere: any input is a value or the one expected error."""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from skerry.agent.bundle import BundleInvalid, import_bundle
from skerry.agent.identity import Identity
from skerry.lib import pki
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.errors import SkerryError
from skerry.lib.memory_files import MemoryRoot
from skerry.lib.oci import Descriptor, LayoutInvalid, new_manifest, parse_index, parse_manifest
from skerry.manager.api.actions import _content_range
from skerry.model.selectors import parse_selector
from skerry.wire import envelope as env
from skerry.wire import messages
from skerry.wire.bundle import BLOBS, DESCRIPTION, ENVELOPE, BundleDescription

CHANNEL = env.SigningKey(env.KeyRole.CHANNEL, pki.new_signing_key())
IDENTITY = Identity(
    manager="https://m",
    authorities=(),
    trusted_keys=(CHANNEL.trusted,),
    state="approved",
    host_uid="uid-1",
)
DIGEST = "sha256:" + "0" * 64
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=12,
)
BLOB = b"content"


def mangled(good: bytes) -> st.SearchStrategy[bytes]:
    """Good bytes with a piece cut out, doubled or replaced."""
    place = st.integers(0, len(good))
    return st.builds(
        lambda start, length, new: good[:start] + new + good[start + length :],
        place,
        st.integers(0, 40),
        st.binary(max_size=12),
    )


def good_envelope() -> bytes:
    assignment = messages.Assignment(
        host_uid="uid-1",
        epoch=1,
        issued_at=msgspec.convert("2026-01-01T00:00:00Z", type=messages.datetime),
    )
    return env.sign(env.ASSIGNMENT, canonical_json(assignment), [CHANNEL]).encode()


GOOD = good_envelope()


@given(st.binary(max_size=300) | JSON.map(msgspec.json.encode) | mangled(GOOD))
@example(b"[" * 100_000)
@example(GOOD.replace(b"application", b"\x80pplication"))
@example(GOOD)
def test_envelope(data: bytes) -> None:
    try:
        envelope = env.decode(data)
        payload = env.verify(
            envelope,
            payload_type=env.ASSIGNMENT,
            role=env.KeyRole.CHANNEL,
            trusted=[CHANNEL.trusted],
        )
    except env.EnvelopeRefused:
        return
    assert payload == env.decode(GOOD).payload, "only what was signed comes through"


KINDS: tuple[Any, ...] = (
    messages.EnrolRequest,
    messages.EnrolState,
    messages.SyncRequest,
    messages.SyncAnswer,
    messages.RenewRequest,
    messages.Assignment,
    messages.ArtifactStatement,
    messages.Refusal,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(
    data=st.binary(max_size=200)
    | JSON.map(msgspec.json.encode)
    | st.just(b"[" * 100_000)
    | st.just(b'{"a":"\x80"}')
)
def test_messages(kind: Any, data: bytes) -> None:
    try:
        assert isinstance(messages.decode(data, kind), kind)
    except messages.MessageInvalid:
        return


PIECES = ["a", "=", "!", "==", "!=", " in ", " notin ", "(", ")", ",", "<", ">", "1", "x/y", "\x00"]


@given(st.text(max_size=80) | st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_label_selectors(text: str) -> None:
    try:
        for requirement in parse_selector(text).requirements:
            requirement.matches({"a": "1"})
    except SkerryError:
        return


MANIFEST = new_manifest(
    artifact_type="a/b",
    config=Descriptor(media_type="c/d", digest=DIGEST, size=2),
    layers=(Descriptor(media_type="e/f", digest=DIGEST, size=3),),
).encode()


@given(st.binary(max_size=200) | JSON.map(msgspec.json.encode) | mangled(MANIFEST))
@example(MANIFEST.replace(DIGEST.encode(), b"sha256:../../../../etc/passwd"))
@example(MANIFEST.replace(b'"size":3', b'"size":-1'))
def test_manifests_name_digests_only(data: bytes) -> None:
    for parse in (parse_manifest, parse_index):
        try:
            found: Any = parse(data)
        except LayoutInvalid:
            continue
        except SkerryError as exc:
            assert "not a sha256 digest" in exc.message  # noqa: PT017 - both are refusals
            continue
        named = (found.config, *found.layers) if parse is parse_manifest else found.manifests
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", item.digest) for item in named)
        assert all(item.size >= 0 for item in named)


@given(
    st.text(max_size=40)
    | st.builds("bytes {}-{}/{}".format, st.integers(), st.integers(), st.integers())
)
def test_blob_ranges(text: str) -> None:
    header = text.encode("latin-1", errors="replace")
    request = Request({"type": "http", "headers": [(b"content-range", header)]})
    try:
        start, total = _content_range(request)
    except SkerryError:
        return
    assert total is not None
    assert 0 <= start < total


def bundle(*entries: tuple[str, bytes], mode: Any = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


ENTRIES = (
    (DESCRIPTION, msgspec.json.encode(
        BundleDescription(format=1, host_uid="uid-1", host_name="till-1")
    )),
    (ENVELOPE, GOOD),
    (BLOBS + sha256(BLOB).removeprefix("sha256:"), BLOB),
)  # fmt: skip
BUNDLES = {mode: bundle(*ENTRIES, mode=mode) for mode in ("w", "w:gz", "w:xz", "w:bz2")}


@pytest.mark.parametrize("mode", BUNDLES)
def test_a_sound_bundle_is_taken(mode: str) -> None:
    root = MemoryRoot()

    taken = import_bundle(root, IDENTITY, io.BytesIO(BUNDLES[mode]))

    assert taken.epoch == 1
    assert BLOB in root.files.values()


@pytest.mark.parametrize("mode", BUNDLES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_bundles(mode: str, data: st.DataObject) -> None:
    root = MemoryRoot()
    text = data.draw(mangled(BUNDLES[mode]) | st.binary(max_size=600))
    with contextlib.suppress(SkerryError):
        import_bundle(root, IDENTITY, io.BytesIO(text))
    inside = ("/var/lib/skerry/content/", "/var/lib/skerry/desired/")
    assert all(path.startswith(inside) for path in root.files)
    for path, content in root.files.items():
        if "/content/sha256/" in path:
            assert sha256(content).endswith(path.rsplit("/", 1)[-1])


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", BLOBS + "../../x", BLOBS + "0" * 63, BLOBS]
)
def test_a_bundle_names_no_place_outside(name: str) -> None:
    root = MemoryRoot()

    with pytest.raises(SkerryError):
        import_bundle(root, IDENTITY, io.BytesIO(bundle(*ENTRIES[:2], (name, b"x"))))

    assert not root.files


def test_a_link_in_a_bundle_is_no_blob() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in ENTRIES[:2]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo(ENTRIES[2][0])
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)

    with pytest.raises(BundleInvalid, match="unexpected entry"):
        import_bundle(MemoryRoot(), IDENTITY, io.BytesIO(out.getvalue()))
