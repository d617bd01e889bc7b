"""Opening an image for `checks`: what a build left, or a raw disk, taken apart.

A disk is read as it is, also one that was installed or changed: the newest entry on its boot
partition says which slot and boot image are looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from skerry.builder.image.checks import ImageView
from skerry.builder.image.disk import RECOVERY, copy_out, table_of
from skerry.builder.image.errors import ImageBuildFailed
from skerry.builder.image.keys import ImageKeys
from skerry.builder.image.pe import NotABootImage, sections
from skerry.builder.image.toolbox import Toolbox
from skerry.lib.proc import CommandFailed
from skerry.model.image import ImageSpec
from skerry.plan import bootentries, disklayout

_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Parts:
    """Files of an image. Missing ones are None. `asked` comes from the build's provenance."""

    root: Path
    verity: Path
    uki: Path
    loader: Path | None
    recovery: Path | None
    signature: Path | None
    asked: ImageSpec


class _Provenance(msgspec.Struct):
    class Definition(msgspec.Struct):
        spec: ImageSpec

    definition: Definition


async def open_image(place: Path, work: Path, *, tools: Toolbox) -> Parts:
    """The parts of a build's folder or of a raw disk; `work` is an empty folder.

    Raises ImageBuildFailed when it is neither.
    """
    if place.is_dir():
        return _open_folder(place)
    return await _open_disk(place, work, tools)


async def view_of(
    parts: Parts, work: Path, *, tools: Toolbox, keys: ImageKeys | None, asked: ImageSpec | None
) -> ImageView:
    """Unpack the root below `work` and verify what is signed; without keys only whether it is."""
    tree = work / "tree"
    await tools.run(
        ["fsck.erofs", f"--extract={tools.at(tree)}", "--preserve", parts.root], timeout_s=_LIMIT_S
    )
    try:
        found = sections(parts.uki)
    except NotABootImage as exc:
        raise ImageBuildFailed(str(exc), hint="build the image again") from exc
    line = found.get(".cmdline", b"").rstrip(b"\0\n").decode(errors="replace")
    view = ImageView(tree=tree, arguments=tuple(line.split()), asked=asked or parts.asked)
    root_hash = view.argument("roothash") or ""
    view.sealed.update(
        {
            "verity": await _verity(parts, root_hash, tools),
            "uki": await _signed(parts.uki, tools, keys),
            "loader": await _signed(parts.loader, tools, keys),
            "recovery": await _signed(parts.recovery, tools, keys),
            "signature": await _root_signature(parts, root_hash, work, tools, keys),
            "policy": _policy(found, keys),
        }
    )
    return view


def _open_folder(folder: Path) -> Parts:
    names = ("root.erofs", "root.verity", "uki.efi")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ImageBuildFailed(
            f"{folder} holds no built image: no {', '.join(missing)}",
            hint="name the folder that 'skerry image build --out' wrote, or a raw disk",
        )
    optional = {
        name: folder / name if (folder / name).is_file() else None
        for name in ("loader.efi", "recovery.efi", "roothash.p7s")
    }
    asked = ImageSpec(version="0.0.0")
    if (folder / "provenance.json").is_file():
        try:
            data = (folder / "provenance.json").read_bytes()
            asked = msgspec.json.decode(data, type=_Provenance).definition.spec
        except msgspec.DecodeError as exc:
            raise ImageBuildFailed(f"{folder / 'provenance.json'} cannot be read: {exc}") from exc
    return Parts(
        root=folder / "root.erofs",
        verity=folder / "root.verity",
        uki=folder / "uki.efi",
        loader=optional["loader.efi"],
        recovery=optional["recovery.efi"],
        signature=optional["roothash.p7s"],
        asked=asked,
    )


async def _open_disk(disk: Path, work: Path, tools: Toolbox) -> Parts:
    try:
        places = await table_of(disk, tools=tools)
        boot = f"{tools.at(disk)}@@{places[disklayout.BOOT][0]}"
        esp = f"{tools.at(disk)}@@{places[disklayout.ESP][0]}"
    except (CommandFailed, KeyError, msgspec.DecodeError) as exc:
        raise ImageBuildFailed(
            f"{disk} is no disk of an appliance: {exc}", hint="name a raw disk, not qcow2"
        ) from exc
    entries = work / "entries"
    entries.mkdir()
    await tools.run(["mcopy", "-s", "-i", boot, f"::/{bootentries.FOLDER}", entries], timeout_s=60)
    entry = newest_entry(entries)
    await tools.run(["mcopy", "-i", boot, f"::/{entry.uki}", work / "uki.efi"], timeout_s=60)
    loader, recovery = work / "loader.efi", work / "recovery.efi"
    await tools.run(["mcopy", "-i", esp, "::/EFI/BOOT/BOOTX64.EFI", loader], timeout_s=60)
    await tools.run(["mcopy", "-i", esp, f"::/{RECOVERY}", recovery], timeout_s=60)
    for label, name in (
        (disklayout.data_label(entry.slot), "root.erofs"),
        (disklayout.verity_label(entry.slot), "root.verity"),
    ):
        start, size = places[label]
        copy_out(disk, work / name, at=start, size=size)
    return Parts(
        root=work / "root.erofs",
        verity=work / "root.verity",
        uki=work / "uki.efi",
        loader=loader,
        recovery=recovery,
        signature=None,
        asked=ImageSpec(version="0.0.0"),
    )


def newest_entry(folder: Path) -> bootentries.BootEntry:
    """What the loader would start first. Raises ImageBuildFailed."""
    found = []
    for place in folder.rglob("*.conf"):
        name = bootentries.parse_name(place.name)
        text = place.read_bytes()[: bootentries.MAX_ENTRY_BYTES].decode(errors="replace")
        entry = bootentries.parse(text)
        if name is not None and entry is not None and not name.bad:
            found.append((name.generation, entry))
    if not found:
        raise ImageBuildFailed(
            "no boot entry of skerry is on the disk", hint="build or install it again"
        )
    entry = max(found, key=lambda item: item[0])[1]
    if entry.slot not in disklayout.SLOTS or not re.fullmatch(r"[\w./-]+", entry.uki):
        raise ImageBuildFailed(f"the boot entry names an odd slot or file: {entry.uki[:80]!r}")
    return entry


async def _verity(parts: Parts, root_hash: str, tools: Toolbox) -> str:
    if not root_hash:
        return "the boot image names no root hash"
    done = await tools.refusal(["veritysetup", "verify", parts.root, parts.verity, root_hash])
    return "" if done is None else f"root and hashes do not fit the boot image: {done}"


async def _signed(image: Path | None, tools: Toolbox, keys: ImageKeys | None) -> str:
    if image is None:
        return "is not there"
    if keys is None:
        done = await tools.run(["sbverify", "--list", image], timeout_s=60)
        return "" if "signature 1" in done.stdout else "is not signed"
    wrong = await tools.refusal(["sbverify", "--cert", keys.db_certificate, image])
    return "" if wrong is None else f"is not signed with these keys: {wrong}"


async def _root_signature(
    parts: Parts, root_hash: str, work: Path, tools: Toolbox, keys: ImageKeys | None
) -> str:
    if parts.signature is None:
        # A disk carries none: the signed boot image names the hash.
        return "" if not (parts.root.parent / "image.json").exists() else "is not there"
    if keys is None:
        return "" if parts.signature.stat().st_size else "is empty"
    text = work / "roothash"
    text.write_text(root_hash)
    wrong = await tools.refusal(
        [
            *("openssl", "smime", "-verify", "-inform", "der", "-binary", "-noverify"),
            *("-nointern", "-in", parts.signature, "-content", text),
            *("-certfile", keys.verity_certificate, "-out", "/dev/null"),
        ]
    )
    return "" if wrong is None else f"is not made with these keys: {wrong}"


def _policy(found: dict[str, bytes], keys: ImageKeys | None) -> str:
    if not found.get(".pcrsig", b"").strip(b"\0"):
        return "the boot image carries no signed measurements"
    if keys is not None and keys.generation:
        own = found.get(".pcrpkey", b"").rstrip(b"\0").strip()
        if own != keys.pcr_public.read_bytes().strip():
            return "the boot image's policy key is another one"
    return ""
