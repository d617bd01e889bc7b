"""The tree of hashes over a root, the signature of its root hash, and the boot images."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from skerry.builder.image.errors import ImageBuildFailed
from skerry.builder.image.keys import ImageKeys
from skerry.builder.image.toolbox import Toolbox
from skerry.lib.digest import hex_of, sha256
from skerry.lib.oci import file_digest
from skerry.plan.image import uuid_from

_STUBS = {"amd64": "linuxx64.efi.stub", "arm64": "linuxaa64.efi.stub"}
_LOADERS = {"amd64": "systemd-bootx64.efi", "arm64": "systemd-bootaa64.efi"}
_BOOT_TOOLS = Path("usr/lib/systemd/boot/efi")


class VerityFacts(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is known of a tree of hashes; lies beside it."""

    root_hash: str
    uuid: str


async def build_verity(root: Path, out: Path, *, tools: Toolbox) -> VerityFacts:
    """Write `root.verity` and `verity.json`; salt and UUID are made from the root's bytes."""
    digest, _ = file_digest(root)
    uuid = uuid_from(sha256(f"verity {digest}".encode()))
    salt = hex_of(sha256(f"salt {digest}".encode()))
    done = await tools.run(
        [
            *("veritysetup", "format", root, out / "root.verity", "--hash=sha256"),
            *("--data-block-size=4096", "--hash-block-size=4096", f"--salt={salt}"),
            f"--uuid={uuid}",
        ],
        timeout_s=300,
    )
    found = re.search(r"Root hash:\s+([0-9a-f]{64})", done.stdout)
    if found is None:
        raise ImageBuildFailed(f"veritysetup told no root hash: {done.stdout[-200:]!r}")
    facts = VerityFacts(root_hash=found[1], uuid=uuid)
    (out / "verity.json").write_bytes(msgspec.json.encode(facts))
    return facts


async def sign_root_hash(root_hash: str, out: Path, *, keys: ImageKeys, tools: Toolbox) -> None:
    """Write `roothash` and `roothash.p7s`, detached PKCS#7 over the hash's 64 hex digits.

    It is what the kernel checks (dm-verity, root_hash_sig_key_desc) and systemd hands to it.
    """
    text = out / "roothash"
    text.write_text(root_hash)
    await tools.run(
        [
            *("openssl", "smime", "-sign", "-nocerts", "-noattr", "-binary", "-outform", "der"),
            *("-in", text, "-inkey", keys.verity_key, "-signer", keys.verity_certificate),
            *("-out", out / "roothash.p7s"),
        ],
        timeout_s=60,
    )


@dataclass(frozen=True, slots=True)
class BootImage:
    """What a boot image is made of. `policy` True: its measurements are signed, so that it may
    open the state partition."""

    kernel: Path
    initrd: Path
    version: str
    release: Path
    arguments: Sequence[str]
    policy: bool


async def build_uki(
    image: BootImage, out: Path, *, architecture: str, keys: ImageKeys, tools: Toolbox
) -> None:
    """Write one signed boot image to `out`."""
    line = out.with_name(f"{out.name}.cmdline")
    line.write_text(" ".join(image.arguments))
    stub = tools.tree / _BOOT_TOOLS / _STUBS[architecture]
    policy: list[str | Path] = []
    if image.policy and keys.generation:
        policy = [
            *(f"--pcr-private-key={tools.at(keys.pcr_key)}", "--phases=enter-initrd"),
            *(f"--pcr-public-key={tools.at(keys.pcr_public)}", "--pcr-banks=sha256"),
        ]
    await tools.run(
        [
            *("ukify", "build", f"--linux={tools.at(image.kernel)}"),
            *(f"--initrd={tools.at(image.initrd)}", f"--cmdline=@{tools.at(line)}"),
            *(f"--os-release=@{tools.at(image.release)}", f"--uname={image.version}"),
            *(f"--stub={tools.at(stub)}", "--signtool=sbsign"),
            f"--secureboot-private-key={tools.at(keys.db_key)}",
            f"--secureboot-certificate={tools.at(keys.db_certificate)}",
            *policy,
            f"--output={tools.at(out)}",
        ],
        timeout_s=300,
    )
    line.unlink()


async def build_loader(out: Path, *, architecture: str, keys: ImageKeys, tools: Toolbox) -> None:
    """Write the signed boot loader to `out`."""
    await tools.run(
        [
            *("sbsign", "--key", keys.db_key, "--cert", keys.db_certificate, "--output", out),
            tools.tree / _BOOT_TOOLS / _LOADERS[architecture],
        ],
        timeout_s=60,
    )


def kernel_of(boot: Path, out: Path) -> None:
    """Take the kernel out of the unpacked packages. Raises ImageBuildFailed."""
    found = sorted((boot / "boot").glob("vmlinuz-*"))
    if len(found) != 1:
        raise ImageBuildFailed(f"the kernel package brings {len(found)} kernels, wanted one")
    shutil.copyfile(found[0], out)
