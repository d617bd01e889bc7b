"""Where the agent keeps its state. All under one folder that survives OS updates."""

from __future__ import annotations

STATE = "/var/lib/skerry"
RUN = "/run/skerry"

IDENTITY = f"{STATE}/identity/identity.json"
HOST_KEY = f"{STATE}/identity/host.key"
SEALING_KEY = f"{STATE}/identity/sealing.key"
COUNTER = f"{STATE}/identity/counter"
TOKEN = f"{STATE}/identity/token"

DESIRED = f"{STATE}/desired/current.json"
LAST_GOOD = f"{STATE}/desired/good.json"

JOURNAL = f"{STATE}/journal/operation.json"
FAILED = f"{STATE}/journal/failed.json"
RETRIED = f"{STATE}/journal/retried"
EVENTS = f"{STATE}/journal/events.json"

CONTENT = f"{STATE}/content/sha256"
PARTIAL = f"{STATE}/content/partial"

LABELS = f"{STATE}/labels.json"
CLOCK_FLOOR = f"{STATE}/identity/clock-floor"

COMMAND = "/usr/local/bin/skerry-agent"
SETTINGS = "/etc/skerry/agent.yaml"

STATUS = f"{STATE}/status.json"
# Where the status goes while the disk is full; in memory, so gone with a reboot.
STATUS_ASIDE = f"{RUN}/status.json"
