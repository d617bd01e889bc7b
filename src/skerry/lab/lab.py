"""A lab run: a bridge, a resolver and hosts, made on entry and removed on exit.

With `keep=True` the hosts are shut down at exit and their disks stay, so that the same run name
finds the same hosts at the same addresses again. Two runs never share anything but the tree.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from signal import SIGKILL
from types import TracebackType
from typing import Self

import anyio
import anyio.abc
import structlog

from skerry.lab import dhcp, dns
from skerry.lab.cleanup import remove_everything
from skerry.lab.errors import LabError
from skerry.lab.facts import MachineFacts, probe_facts
from skerry.lab.hosts import ContainerHost
from skerry.lab.launch import HostSpec
from skerry.lab.machine import Machine
from skerry.lab.names import bridge_name, check_label
from skerry.lab.network import (
    choose_address,
    choose_network,
    gateway_of,
    make_bridge,
    probe_ranges,
)
from skerry.lab.qemu import MachineSpec
from skerry.lab.registry import Registry
from skerry.lab.requirements import PROGRAMS
from skerry.lab.tree import DEFAULT_SUITE, ensure_tree
from skerry.lib.clock import Clock, SystemClock
from skerry.lib.errors import NotAllowedHere
from skerry.lib.proc import Runner, SystemRunner

log = structlog.get_logger()

MANAGER_NAME = "manager"
DOMAIN = "lab.internal"


def find_hosts(
    run: str,
    base_dir: Path | None = None,
    *,
    runner: Runner | None = None,
    clock: Clock | None = None,
) -> dict[str, ContainerHost]:
    """The hosts of a run that another process keeps, for looking in; by name.

    `base_dir` is only needed for a run that is not entered now. Raises LabError when there is none.
    """
    check_label(run, what="run name")
    runner, clock, facts = runner or SystemRunner(), clock or SystemClock(), probe_facts()
    base = base_dir or Registry(clock).base_dir(run)
    folder = base.absolute() / run if base is not None else None
    if folder is None or not (folder / "lab.json").exists():
        raise LabError(
            f"there is no lab run {run}",
            hint="a real host needs root: './dev up' without --simulated starts one",
        )
    found = {}
    for name, address in json.loads((folder / "lab.json").read_text())["addresses"].items():
        place = folder / "hosts" / name
        spec = HostSpec(
            run=run,
            name=name,
            folder=place,
            tree=Path((place / "tree").read_text()),
            bridge=bridge_name(run),
        )
        found[name] = ContainerHost(
            spec, IPv4Address(address), facts=facts, runner=runner, clock=clock
        )
    return found


class Lab:
    """An async context. `gateway` is the address on which the manager can listen for hosts."""

    def __init__(
        self,
        run: str,
        base_dir: Path,
        *,
        keep: bool = False,
        cache: Path | None = None,
        runner: Runner | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.run = check_label(run, what="run name")
        self.bridge = bridge_name(run)
        self.hosts: dict[str, ContainerHost] = {}
        self.machines: dict[str, Machine] = {}
        self._base_dir = base_dir.absolute()
        self._keep = keep
        self._cache = cache
        self._runner = runner or SystemRunner()
        self._clock = clock or SystemClock()
        self._registry = Registry(self._clock)
        self._facts = probe_facts()
        self._network: IPv4Network | None = None
        self._addresses: dict[str, IPv4Address] = {}
        self._names: dict[str, IPv4Address] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self._dhcp: anyio.abc.Process | None = None

    @property
    def folder(self) -> Path:
        """Where the run's disks lie."""
        return self._base_dir / self.run

    @property
    def facts(self) -> MachineFacts:
        """What this computer can do; give it to `deviations`."""
        return self._facts

    @property
    def network(self) -> IPv4Network:
        """The run's address range. Raises LabError before the lab is entered."""
        if self._network is None:
            raise LabError(f"lab {self.run} is not entered")
        return self._network

    @property
    def gateway(self) -> IPv4Address:
        """This computer's address on the bridge; hosts know it as `manager`."""
        return gateway_of(self.network)

    async def __aenter__(self) -> Self:
        _check_machine(self._facts)
        try:
            await self._set_up()
        except BaseException:
            await self._close_tasks(None)
            await self._remove()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._keep:
                with anyio.CancelScope(shield=True):
                    await self._stop_all()
        finally:
            try:
                await self._close_tasks(error)
            finally:
                await self._remove()

    async def _close_tasks(self, error: BaseException | None) -> None:
        if self._tasks is None:
            return
        self._tasks.cancel_scope.cancel()
        # The group may only see a cancellation (its own, when the resolver failed): it would wrap
        # every other error of the body in a group.
        if not isinstance(error, anyio.get_cancelled_exc_class()):
            error = None
        await self._tasks.__aexit__(type(error) if error else None, error, None)

    async def add_host(self, name: str, *, suite: str = DEFAULT_SUITE) -> ContainerHost:
        """Make a host, or find the one that the run has. It is off until it is started.

        `suite` is the Debian release of a new host. The first host of a release on a computer also
        makes its tree, which takes about a minute.
        """
        if name in self.hosts:
            return self.hosts[name]
        self._address_of(name)
        host = ContainerHost(
            HostSpec(
                run=self.run,
                name=name,
                folder=self.folder / "hosts" / name,
                tree=await self._tree_of(name, suite),
                bridge=self.bridge,
            ),
            self._addresses[name],
            facts=self._facts,
            runner=self._runner,
            clock=self._clock,
        )
        host.install(self.network)
        self.hosts[name] = host
        self._name(name, host.address)
        return host

    async def add_machine(
        self, name: str, make: Callable[[MachineSpec], MachineSpec], *, accel: Sequence[str]
    ) -> Machine:
        """Make a machine on the lab's bridge; it gets its address by DHCP and is off until it is
        started. `make` adds to a specification that has names, folder and bridge."""
        if name in self.machines:
            return self.machines[name]
        address = self._address_of(name)
        folder = self.folder / "machines" / name
        plain = MachineSpec(run=self.run, name=name, folder=folder, bridge=self.bridge)
        dhcp.give(self.folder / "dhcp" / "hosts", name, plain.mac, address)
        if self._dhcp is None:
            self._dhcp = await dhcp.start_server(self.bridge, self.network, self.folder / "dhcp")
        machine = Machine(make(plain), accel=accel, runner=self._runner, clock=self._clock)
        self.machines[name] = machine
        self._name(name, address)
        return machine

    def address_of(self, name: str) -> IPv4Address:
        """The address of a host or machine of this run."""
        return self._addresses[name]

    def _address_of(self, name: str) -> IPv4Address:
        check_label(name, what="host name")
        if name == MANAGER_NAME:
            raise LabError(f"{MANAGER_NAME!r} is the name of this computer in the lab")
        if name not in self._addresses:
            self._addresses[name] = choose_address(self.network, self._addresses.values())
            self._save()
        return self._addresses[name]

    async def _set_up(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        async with self._registry.locked():
            taken = await probe_ranges(self._runner, but_bridge=self.bridge)
            self._load()
            if self._network is None or any(self._network.overlaps(other) for other in taken):
                if self._addresses:
                    raise LabError(
                        f"range {self._network} of lab {self.run} is now used by something else",
                        hint="remove the run and make it again",
                    )
                self._network = choose_network(self.run, taken)
            self._registry.enter(self.run, self._base_dir)
            await make_bridge(self._runner, self.bridge, self._network)
        self._save()
        self._name(MANAGER_NAME, self.gateway)
        self._tasks = await anyio.create_task_group().__aenter__()
        await self._tasks.start(partial(dns.serve, self.gateway, self._names))
        log.info("lab.ready", run=self.run, network=str(self._network), bridge=self.bridge)

    async def _stop_all(self) -> None:
        async with anyio.create_task_group() as group:
            for host in self.hosts.values():
                group.start_soon(host.stop)

    async def _remove(self) -> None:
        with anyio.CancelScope(shield=True):
            for machine in self.machines.values():
                await machine.power_cut()
            if self._dhcp is not None:
                with contextlib.suppress(ProcessLookupError):
                    self._dhcp.send_signal(SIGKILL)
                await self._dhcp.wait()
            await remove_everything(
                self.run,
                self._base_dir,
                keep_disks=self._keep,
                runner=self._runner,
                clock=self._clock,
            )

    def _name(self, name: str, address: IPv4Address) -> None:
        self._names[name] = self._names[f"{name}.{DOMAIN}"] = address

    async def _tree_of(self, name: str, suite: str) -> Path:
        # A disk's lower layer must stay the one it was made with, or overlayfs mixes two systems.
        mark = self.folder / "hosts" / name / "tree"
        if mark.exists() and Path(mark.read_text()).is_dir():
            return Path(mark.read_text())
        if mark.exists():
            raise LabError(
                f"the tree of lab host {name} is gone from the cache",
                hint=f"remove the lab run {self.run} and make it again",
            )
        tree = await ensure_tree(self._cache, suite=suite, runner=self._runner, clock=self._clock)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(str(tree))
        return tree

    def _load(self) -> None:
        path = self.folder / "lab.json"
        if path.exists():
            saved = json.loads(path.read_text())
            self._network = IPv4Network(saved["network"])
            self._addresses = {k: IPv4Address(v) for k, v in saved["addresses"].items()}

    def _save(self) -> None:
        path = self.folder / "lab.json"
        saved = {
            "network": str(self.network),
            "addresses": {name: str(address) for name, address in self._addresses.items()},
        }
        path.with_suffix(".new").write_text(json.dumps(saved, indent=2))
        path.with_suffix(".new").rename(path)


def _check_machine(facts: MachineFacts) -> None:
    if not facts.is_root:
        raise NotAllowedHere("the lab needs root", hint="run it with sudo")
    folders = [*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin"]
    missing = {
        package
        for program, package in PROGRAMS.items()
        if not any(os.access(f"{folder}/{program}", os.X_OK) for folder in folders)
    }
    if missing:
        raise NotAllowedHere(
            f"the lab misses programs of {', '.join(sorted(missing))}",
            hint=f"apt-get install {' '.join(sorted(missing))}",
        )
