"""Simulated fleets: the real agent over made-up machines, many hosts in one process.

Only the OS, Kubernetes, disk and line of a host are made up; keys, signatures, envelope checks and
journal are the agent's own, so that a manager cannot tell a simulated host from a real one.
"""

from __future__ import annotations

from skerry.sim.fleet import Fleet, FleetCount, run_fleet
from skerry.sim.line import Faults
from skerry.sim.places import Harbour, harbours

__all__ = ["Faults", "Fleet", "FleetCount", "Harbour", "harbours", "run_fleet"]
