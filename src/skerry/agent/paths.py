"""Where the agent keeps its state. All under one folder that survives OS updates."""

from __future__ import annotations

STATE = "/var/lib/skerry"
RUN = "/run/skerry"

IDENTITY = f"{STATE}/identity/identity.json"
HOST_KEY = f"{STATE}/identity/host.key"
SEALING_KEY = f"{STATE}/identity/sealing.key"
COUNTER = f"{STATE}/identity/counter"
TOKEN = f"{STATE}/identity/token"
PAIRING_KEY = f"{STATE}/identity/pairing-key"
# Secrets that may not lie on a disk; gone with a reboot.
VOLATILE_TOKEN = f"{RUN}/token"
VOLATILE_PAIRING_KEY = f"{RUN}/pairing-key"
# What the installer, or the first boot, was told of the site; secrets go with the registration.
SITE = f"{STATE}/site.yaml"
SITE_STATE = f"{RUN}/site.json"

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

# The agent's own two slots. The names below AGENT are known to watchdog.sh as well.
SLOTS = "/opt/skerry/agent"
CURRENT = f"{SLOTS}/current"
AGENT = f"{STATE}/agent"
TRIAL = f"{AGENT}/trial"
CONFIRMED = f"{AGENT}/confirmed"
RETURNING = f"{AGENT}/returning"
RETURNED = f"{AGENT}/returned"
STARTS = f"{AGENT}/starts"
WATCHDOG = f"{AGENT}/watchdog.sh"
AGENT_MEMORY = f"{AGENT}/memory.json"
AGENT_OFFER = f"{STATE}/desired/agent.json"
OS_MEMORY = f"{STATE}/os/memory.json"

UNITS = "/etc/systemd/system"
AGENT_UNIT = "skerry-agent.service"
TRIAL_DROP_IN = f"{UNITS}/{AGENT_UNIT}.d/50-trial.conf"
WATCHDOG_SERVICE = "skerry-agent-watchdog.service"
WATCHDOG_TIMER = "skerry-agent-watchdog.timer"
# Where the status goes while the disk is full; in memory, so gone with a reboot.
STATUS_ASIDE = f"{RUN}/status.json"
