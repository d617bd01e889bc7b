"""The steps that make an OS image, each named by the digest of all that goes into it.

Pure: a definition, a distribution and digests of what lies around them go in, a list of steps comes
out. Steps with equal ids have equal results, so a builder may take one that it made before. What
is signed depends on keys only from the step that signs on: the root hash needs no key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from skerry.lib.digest import canonical_json, sha256
from skerry.model.image import Distribution, ImageDefinition
from skerry.model.meta import Record
from skerry.plan.disklayout import MIB, Sizes
from skerry.plan.installmedium import MEDIUM_ROOT, MEDIUM_VERITY

# Raised when a step makes something else from the same inputs.
FORMS = {
    "tools": 2,
    "packages": 1,
    "boot": 1,
    "initrd": 2,
    "root": 1,
    "verity": 1,
    "signature": 1,
    "uki": 1,
    "recovery": 1,
    "loader": 1,
    "live": 1,
    "artifact": 1,
    "disk": 1,
}

_WORDS = {
    "tools": "programs of the distribution that make the image",
    "packages": "the system's packages, installed",
    "boot": "kernel and the initrd's packages, unpacked",
    "initrd": "initial system that finds a slot and mounts what persists",
    "root": "root file system (erofs)",
    "verity": "tree of hashes over the root",
    "signature": "signature of the root hash",
    "uki": "boot image, signed",
    "recovery": "recovery boot image, signed",
    "loader": "boot loader, signed",
    "live": "boot image of the installation medium, signed",
    "artifact": "update artifact",
    "disk": "raw disk",
}


class ImageInputs(Record, frozen=True, kw_only=True):
    """Digests of what a build reads besides the definition's own text.

    `sources` maps a path as the definition writes it to its digest; `appliance` the parts "root"
    and "initrd" of skerry's own files; `agent` is empty for an image without one; `keys` maps a
    key's name ("db", "verity", "pcr") to the digest of its public half.
    """

    sources: dict[str, str] = {}
    appliance: dict[str, str] = {}
    agent: str = ""
    keys: dict[str, str] = {}
    policy_generation: int = 1


class ImageStep(Record, frozen=True, kw_only=True):
    """`id` is 16 hex digits; `needs` names the steps whose results go in."""

    name: str
    id: str
    needs: tuple[str, ...]
    words: str


def plan_image(
    definition: ImageDefinition, distribution: Distribution, inputs: ImageInputs
) -> tuple[ImageStep, ...]:
    """All steps, each after those that it needs."""
    steps = _Steps()
    _add_trees(steps, definition, distribution, inputs)
    _add_signed(steps, definition, distribution, inputs)
    about = {
        "name": definition.name,
        "version": definition.spec.version,
        "generation": inputs.policy_generation,
    }
    steps.add("artifact", about, needs=("root", "verity", "signature", "uki"))
    disk = {
        "sizes": msgspec.to_builtins(definition.spec.sizes),
        "enroll": definition.spec.enroll_keys.value,
        "enrolment": inputs.keys.get("enrolment", ""),
    }
    steps.add("disk", {**about, **disk}, needs=("tools", "artifact", "recovery", "loader"))
    return tuple(steps.found.values())


def _add_trees(
    steps: _Steps, definition: ImageDefinition, distribution: Distribution, inputs: ImageInputs
) -> None:
    """Everything that no key goes into: from packages to the root hash."""
    origin = {
        "distribution": distribution.distribution,
        "release": distribution.release,
        "architecture": definition.spec.architecture,
        "asOf": definition.spec.base.as_of,
    }
    steps.add("tools", {**origin, "packages": distribution.tools})
    steps.add("packages", {**origin, "packages": packages_of(definition, distribution)})
    steps.add("boot", {**origin, "packages": boot_packages_of(definition, distribution)})
    initrd = {
        "modules": initrd_modules_of(definition, distribution),
        "leftOut": distribution.initrd_left_out,
        "files": inputs.appliance.get("initrd", ""),
    }
    steps.add("initrd", initrd, needs=("tools", "boot"))
    root = {
        "name": definition.name,
        "spec": _root_part(definition),
        "leftOut": distribution.root_left_out,
        "unprivileged": distribution.unprivileged,
        "enable": distribution.enable,
        "mask": distribution.mask,
        "files": inputs.appliance.get("root", ""),
        "sources": inputs.sources,
        "agent": inputs.agent,
    }
    steps.add("root", root, needs=("tools", "packages", "boot"))
    steps.add("verity", {}, needs=("tools", "root"))


def _add_signed(
    steps: _Steps, definition: ImageDefinition, distribution: Distribution, inputs: ImageInputs
) -> None:
    """What is signed: the root hash, boot images and loader."""
    keys = inputs.keys
    db = {"db": keys.get("db", "")}
    slot = {**db, "arguments": kernel_arguments(definition, distribution)}
    recovery = {**db, "arguments": recovery_arguments(distribution)}
    system = ("tools", "boot", "initrd")
    steps.add("signature", {"key": keys.get("verity", "")}, needs=("tools", "verity"))
    steps.add("uki", {**slot, "pcr": keys.get("pcr", "")}, needs=(*system, "verity"))
    steps.add("recovery", recovery, needs=system)
    steps.add("loader", db, needs=("tools",))
    steps.add("live", slot, needs=(*system, "verity"))


def packages_of(definition: ImageDefinition, distribution: Distribution) -> tuple[str, ...]:
    """Packages of the root, sorted, each once."""
    spec = definition.spec
    return tuple(sorted({*distribution.packages, *spec.packages, *spec.drivers.packages}))


def boot_packages_of(definition: ImageDefinition, distribution: Distribution) -> tuple[str, ...]:
    """The kernel first, then the initrd's packages."""
    kernel = definition.spec.kernel.package
    return (
        kernel or distribution.kernels[definition.spec.architecture],
        *sorted(distribution.initrd_packages),
    )


def initrd_modules_of(definition: ImageDefinition, distribution: Distribution) -> tuple[str, ...]:
    """Kernel modules of the initrd, without those they depend on."""
    own = definition.spec.drivers.initrd_modules
    return tuple(sorted({*distribution.initrd_modules, *own}))


def kernel_arguments(definition: ImageDefinition, distribution: Distribution) -> tuple[str, ...]:
    """Arguments of a slot's boot image, without those that name the slot's content."""
    return (*distribution.kernel_arguments, *definition.spec.kernel.arguments)


def slot_arguments(root_hash: str, root_uuid: str, verity_uuid: str) -> tuple[str, ...]:
    """Arguments by which an initrd finds the root that belongs to the boot image."""
    return (
        f"roothash={root_hash}",
        f"systemd.verity_root_data=/dev/disk/by-uuid/{root_uuid}",
        f"systemd.verity_root_hash=/dev/disk/by-uuid/{verity_uuid}",
    )


def live_arguments(root_hash: str) -> tuple[str, ...]:
    """Arguments by which the installation medium finds its own root. It mounts nothing of a disk
    that is installed already: such a disk would be in use, and could not be installed again."""
    return (
        f"roothash={root_hash}",
        f"systemd.verity_root_data=/dev/disk/by-partlabel/{MEDIUM_ROOT}",
        f"systemd.verity_root_hash=/dev/disk/by-partlabel/{MEDIUM_VERITY}",
        "skerry.install",
        "systemd.mask=boot.mount",
    )


def recovery_arguments(distribution: Distribution) -> tuple[str, ...]:
    """Arguments of the recovery image; the definition's own could be what broke the machine."""
    return (
        *distribution.kernel_arguments,
        "rd.systemd.unit=skerry-recovery.target",
        "skerry.recovery",
    )


def disk_sizes(definition: ImageDefinition) -> Sizes:
    """Sizes of the partitions; the tree of hashes needs below 1 % of the root."""
    sizes = definition.spec.sizes
    return Sizes(
        esp=sizes.esp_mib * MIB,
        boot=sizes.boot_mib * MIB,
        root=sizes.root_mib * MIB,
        verity=max(16, -(-sizes.root_mib // 100)) * MIB,
    )


def uuid_from(digest: str) -> str:
    """A UUID made from 32 hex digits of a digest (RFC 9562, version 8: vendor specific)."""
    digits = list(digest.removeprefix("sha256:")[:32])
    digits[12] = "8"
    digits[16] = "89ab"[int(digits[16], 16) % 4]
    text = "".join(digits)
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _root_part(definition: ImageDefinition) -> dict[str, Any]:
    """What of the spec stands in the root: nothing that only the disk or the kernel is told."""
    spec: dict[str, Any] = msgspec.to_builtins(definition.spec)
    for name in ("base", "packages", "kernel", "drivers", "sizes", "enrollKeys"):
        spec.pop(name)
    return spec


class _Steps:
    """Steps in order; a step's id holds those of what it needs."""

    def __init__(self) -> None:
        self.found: dict[str, ImageStep] = {}

    def add(self, name: str, inputs: Mapping[str, Any], *, needs: tuple[str, ...] = ()) -> None:
        content = {
            "step": name,
            "form": FORMS[name],
            "inputs": dict(inputs),
            "needs": {need: self.found[need].id for need in needs},
        }
        digest = sha256(canonical_json(content))
        step = ImageStep(
            name=name,
            id=digest.removeprefix("sha256:")[:16],
            needs=needs,
            words=_WORDS[name],
        )
        self.found[name] = step
