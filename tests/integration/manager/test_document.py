"""Requests made from the checked-in OpenAPI document: no internal error, answers as it says.

The seed is fixed and the number of requests bounded, so a failure repeats.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from skerry.lib.clock import ManualClock
from skerry.manager.app import build_app, open_centre
from skerry.manager.auth.accounts import new_api_key
from skerry.manager.settings import Settings

from .conftest import BASE

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "openapi.json"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
schema = schemathesis.openapi.from_dict(json.loads(DOCUMENT.read_text()))


class Served:
    """A manager in a loop of its own, with an administrator's key."""

    def __init__(self, portal: BlockingPortal, client: httpx2.AsyncClient) -> None:
        self._portal = portal
        self._client = client

    def send(self, case: schemathesis.Case) -> httpx2.Response:
        # An endless answer ends no test; watches have tests of their own.
        case.query.pop("watch", None)
        arguments = case.as_transport_kwargs(base_url=BASE)
        known = ("method", "url", "params", "json", "data", "headers")
        chosen = {key: arguments[key] for key in known if arguments.get(key) is not None}
        if isinstance(chosen.get("data"), bytes | str):
            chosen["content"] = chosen.pop("data")
        headers = {**dict(chosen.pop("headers", {})), "authorization": self._key}
        return self._portal.call(self._request, {**chosen, "headers": headers})

    async def _request(self, arguments: dict[str, Any]) -> httpx2.Response:
        return await self._client.request(**arguments)

    @property
    def _key(self) -> str:
        return str(self._client.headers["authorization"])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("document")
    chosen = Settings(data=str(data), url=BASE, login_per_minute=6000, enrol_per_s=1000)
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(open_centre(chosen, clock=ManualClock())) as centre,
    ):

        async def key() -> str:
            made, _ = await new_api_key(
                centre.store, "user:admin", actor="user:admin", now=centre.clock.now()
            )
            return made

        client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=build_app(centre), raise_app_exceptions=False),
            base_url=BASE,
            headers={"authorization": f"Bearer {portal.call(key)}"},
        )
        yield Served(portal, client)
        portal.call(client.aclose)


@schema.parametrize()
@settings(
    max_examples=5,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_the_document_says(case: schemathesis.Case, served: Served) -> None:
    case.validate_response(served.send(case), checks=CHECKS)
