"""Durable objects behind one protocol (`protocol.Store`): SQLite and PostgreSQL.

`open_store` is the way in; a failure to reach the database is a `StoreUnavailable` there and in
every method.
"""

from __future__ import annotations

from skerry.manager.store.errors import StoreTooNew, StoreUnavailable
from skerry.manager.store.opening import open_store
from skerry.manager.store.protocol import Store

__all__ = ["Store", "StoreTooNew", "StoreUnavailable", "open_store"]
