"""Images for the machine tests, made by the builder from one definition at several versions."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml

from skerry.builder.agent import agent_entry, build_agent
from skerry.builder.cache import default_cache
from skerry.builder.image.build import Build, open_job
from skerry.builder.image.deliver import Delivery, deliver
from skerry.builder.image.journal import BuildLog
from skerry.builder.image.keys import create_keys, open_keys
from skerry.lib.clock import SystemClock
from skerry.lib.proc import SystemRunner

CHECKOUT = Path(__file__).parents[2]

# Dies as early as a system can whose root and state are mounted.
PANIC_UNIT = """\
[Unit]
Description=A defect
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/sh -c "echo c > /proc/sysrq-trigger"
[Install]
WantedBy=sysinit.target
"""
PANICS = {
    "files": [{"path": "/usr/lib/systemd/system/defect.service", "content": PANIC_UNIT}],
    "units": {"enable": ["defect.service"]},
}


@dataclass
class Works:
    """A place where images are made, with keys of its own."""

    folder: Path
    made: dict[str, Delivery] = field(default_factory=dict)

    async def image(self, version: str, more: Mapping[str, Any] | None = None) -> Delivery:
        """The example's image at a version, with `more` in its spec."""
        if version in self.made:
            return self.made[version]
        clock, runner, cache = SystemClock(), SystemRunner(), default_cache(os.environ)
        keys = self.folder / "keys"
        if not keys.exists():
            create_keys(keys, organisation="Harbour", now=dt.datetime.now(dt.UTC))
        document = yaml.safe_load((CHECKOUT / "examples" / "appliance.yaml").read_text())
        document["spec"] |= {"version": version, **(more or {})}
        file = self.folder / f"{version}.yaml"
        file.write_text(yaml.safe_dump(document))
        lock = CHECKOUT / "requirements" / "dev.txt"
        agent = await build_agent(cache=cache, runner=runner, lock=lock)
        mark = await agent_entry(runner=runner, lock=lock)
        job = open_job(file, open_keys(keys), agent=mark, archive=agent.path)
        out = self.folder / version
        out.mkdir()
        with (out / "build.log").open("w") as writing:
            log = BuildLog(writing, clock)
            build = Build(job, cache=cache, runner=runner, log=log, tell=lambda *_: None)
            await build.run()
            self.made[version] = await deliver(build, out, clock=clock)
        return self.made[version]


def site_data(*, manager: str, trust: str, token: str, name: str) -> bytes:
    """What a machine is told before its first contact, as the credential `skerry.site`."""
    told = {"manager": manager, "trust": trust, "token": token, "hostName": name}
    return msgspec.json.encode(told)
