"""A manager process to kill: serves the folder and port of argv, says when, and never ends."""

from __future__ import annotations

import sys

import anyio

from skerry.manager.app import ServingInfo, serve
from skerry.manager.settings import Settings


def ready(info: ServingInfo) -> None:
    sys.stdout.write(f"ready {info.url}\n")
    sys.stdout.flush()


async def main(data: str, port: str) -> None:
    settings = Settings(data=data, port=int(port), enrol_per_s=1000, enrol_burst=1000)
    await serve(settings, ready=ready)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
