"""What an agent artifact is: one archive and the metadata that travels as its config blob.

Shared by builder, manager and agent. The archive holds one folder with the program in it; it is
the same file that the install line fetches.
"""

from __future__ import annotations

import msgspec

from skerry.lib.errors import SkerryError

AGENT_ARTIFACT_TYPE = "application/vnd.skerry.agent.v1"
AGENT_CONFIG_TYPE = "application/vnd.skerry.agent.config.v1+json"
AGENT_ARCHIVE_TYPE = "application/vnd.skerry.agent.archive.v1.tar+gzip"

PROGRAM = "skerry-agent"
MAX_AGENT_METADATA_BYTES = 64 * 1024


class AgentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an archive. `digest` and `size_bytes` are the archive's; `glibc` is the
    lowest C library it runs with ("2.35", empty when it needs none)."""

    version: str
    architecture: str
    digest: str
    size_bytes: int
    unpacked_bytes: int
    glibc: str
    python: str


class AgentReleaseInvalid(SkerryError):
    """An agent artifact is not of the form that skerry makes."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="build and push the agent again", reason="ArtifactInvalid")


def parse_agent_info(data: bytes) -> AgentInfo:
    """Decode a config blob. Raises AgentReleaseInvalid."""
    try:
        return msgspec.json.decode(data, type=AgentInfo)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise AgentReleaseInvalid(f"metadata of the agent cannot be read: {exc}") from exc
