"""The real agent core against a real manager on loopback."""

from __future__ import annotations

from tests.integration.sim.conftest import manager

__all__ = ["manager"]
