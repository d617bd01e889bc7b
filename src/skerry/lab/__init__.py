"""Real hosts on this computer, for the lab tests and `./dev up`.

A `Lab` is a bridge with a resolver, hosts that are systemd-nspawn containers and machines that are
emulated by QEMU. Everything a
lab makes carries its run name and is removed by that name, also after a crash.
"""

from __future__ import annotations

from skerry.lab.cleanup import list_leftovers, remove_everything
from skerry.lab.deviations import deviations
from skerry.lab.facts import MachineFacts, probe_facts
from skerry.lab.hosts import ContainerHost
from skerry.lab.lab import Lab, find_hosts
from skerry.lab.tree import ensure_tree

__all__ = [
    "ContainerHost",
    "Lab",
    "MachineFacts",
    "deviations",
    "ensure_tree",
    "find_hosts",
    "list_leftovers",
    "probe_facts",
    "remove_everything",
]
