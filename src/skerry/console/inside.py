"""What pages use of the manager's inside, in one place.

The console may not import the store; the services speak its words, and this module is where the
console takes them from the services.
"""

from __future__ import annotations

from typing import Any

from skerry.manager.services.objects import (  # type: ignore[attr-defined]  # services' own words
    Conflict,
    NotFound,
    Page,
    Query,
)
from skerry.model.meta import Resource

__all__ = ["AnyResource", "Conflict", "NotFound", "Page", "Query"]

AnyResource = Resource[Any, Any]
