"""What a host remembers of OS images that it tried, beyond the operation that is in the journal."""

from __future__ import annotations

import msgspec

from skerry.agent import paths
from skerry.agent.journal import Failure
from skerry.lib.files import Root
from skerry.model.meta import Record

_KEPT = 20
# What another try of the same image cannot change.
_NEVER = ("ImageInvalid", "ImageTooLarge", "ArchitectureMismatch")


class OsMemory(Record, frozen=True, kw_only=True):
    """Digests of images that failed here, those that only fell back without a verdict, how many
    requests for another try were heard, and the boot in which a slot was armed or rolled back."""

    failed: dict[str, Failure] = {}
    interrupted: dict[str, int] = {}
    retries: int = 0
    armed_in: str = ""

    def after(self, digest: str, failure: Failure) -> OsMemory:
        """With what a failure says about an image; the same twice is the same once."""
        if failure.reason in ("OsReturned", *_NEVER):
            failed = dict(list({**self.failed, digest: failure}.items())[-_KEPT:])
            return msgspec.structs.replace(self, failed=failed)
        if failure.reason == "OsInterrupted":
            interrupted = dict(list({**self.interrupted, digest: 1}.items())[-_KEPT:])
            return msgspec.structs.replace(self, interrupted=interrupted)
        return self

    def confirmed(self, digest: str) -> OsMemory:
        """Without what an image was held against that has proved itself."""
        failed = {key: value for key, value in self.failed.items() if key != digest}
        kept = {key: count for key, count in self.interrupted.items() if key != digest}
        return msgspec.structs.replace(self, failed=failed, interrupted=kept)


def load_memory(root: Root) -> OsMemory:
    """Empty on a host that tried nothing yet."""
    if not root.exists(paths.OS_MEMORY):
        return OsMemory()
    return msgspec.json.decode(root.read(paths.OS_MEMORY), type=OsMemory)


def save_memory(root: Root, memory: OsMemory) -> None:
    """Write it when it changed."""
    if memory != load_memory(root):
        root.write(paths.OS_MEMORY, msgspec.json.encode(memory), mode=0o600)
