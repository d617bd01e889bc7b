"""A host's bundle from the manager into a file.

The file appears under its name only when it is whole; a broken download leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio

from skerry.client.api import Api
from skerry.client.connection import streaming
from skerry.lib.errors import SkerryError


async def download_bundle(
    api: Api, project: str, host: str, out: Path, *, progress: Callable[[int], None] | None = None
) -> int:
    """Bytes written. `progress` hears each further number of bytes. Raises SkerryError."""
    partial = out.with_name(f".{out.name}.part")
    written = 0
    try:
        async with streaming(api.http, f"/v1/projects/{project}/hosts/{host}/bundle") as answer:
            promised = int(answer.headers.get("content-length", "0"))
            # It holds sealed secrets and what the site runs: for its owner only.
            partial.touch(mode=0o600)
            async with await anyio.open_file(partial, "wb") as file:
                async for chunk in answer.aiter_bytes():
                    await file.write(chunk)
                    written += len(chunk)
                    if progress is not None:
                        progress(len(chunk))
        if promised and written != promised:
            raise SkerryError(
                f"bundle of host {host} broke off after {written} of {promised} bytes",
                hint="try again",
                retryable=True,
            )
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return written
