"""Questions to this host's own API server and health ports, over connections that stay open.

Observing asks a dozen questions every few seconds for years. A kubectl for each would cost a tenth
of a processor; these cost next to nothing. What changes the cluster still goes through kubectl.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx2
import yaml

from skerry.agent.kube import places
from skerry.lib.digest import sha256
from skerry.lib.files import FileMissing, Root

_MAX_BYTES = 64 << 20
# Longer than the pause between two rounds of questions.
_LIMITS = httpx2.Limits(keepalive_expiry=120.0)


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """Status 0 means that there was no answer; `problem` then says why."""

    status: int
    text: str = ""
    problem: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 200

    def json(self) -> dict[str, Any]:
        """The answer's object. Only after `ok`."""
        return dict(json.loads(self.text))


class KubeApi(Protocol):
    """The door to the API server and to the health ports of this host."""

    async def get(
        self,
        path: str,
        *,
        config: str,
        query: Mapping[str, str] | None = None,
        timeout_s: float = 10,
    ) -> ApiAnswer:
        """Ask the API server with the credential of the kubeconfig at `config`. Never raises."""
        ...

    async def probe(self, url: str, *, timeout_s: float = 10) -> str:
        """Ask a health address of this host; empty when it answers well, else what went wrong."""
        ...

    async def close(self) -> None: ...


class HttpKubeApi:
    """Over HTTPS. A kubeconfig that changed on disk is read again."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._clients: dict[str, tuple[str, httpx2.AsyncClient]] = {}
        self._health: httpx2.AsyncClient | None = None

    async def get(
        self,
        path: str,
        *,
        config: str,
        query: Mapping[str, str] | None = None,
        timeout_s: float = 10,
    ) -> ApiAnswer:
        try:
            client = await self._client(config)
            answer = await client.get(path, params=dict(query or {}), timeout=timeout_s)
        except FileMissing:
            return ApiAnswer(0, problem=f"{config} is not there")
        except (httpx2.HTTPError, OSError, ValueError) as exc:
            return ApiAnswer(0, problem=_words(exc))
        if len(answer.content) > _MAX_BYTES:
            return ApiAnswer(0, problem=f"the answer to {path} is larger than {_MAX_BYTES} bytes")
        return ApiAnswer(answer.status_code, answer.text, _message(answer))

    async def probe(self, url: str, *, timeout_s: float = 10) -> str:
        if self._health is None:
            # The components' own certificates are signed by nobody, and the addresses are this
            # host's: only whether something healthy answers is asked here.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self._health = httpx2.AsyncClient(verify=context, trust_env=False, limits=_LIMITS)
        try:
            answer = await self._health.get(url, timeout=timeout_s)
        except (httpx2.HTTPError, OSError) as exc:
            return _words(exc)
        return "" if answer.status_code == 200 else _message(answer)

    async def close(self) -> None:
        for _, client in self._clients.values():
            await client.aclose()
        self._clients.clear()
        if self._health is not None:
            await self._health.aclose()
            self._health = None

    async def _client(self, config: str) -> httpx2.AsyncClient:
        data = self._root.read(config)
        digest = sha256(data)
        known = self._clients.get(config)
        if known is not None and known[0] == digest:
            return known[1]
        if known is not None:
            await known[1].aclose()
        server, context = _credential(data, self._root)
        client = httpx2.AsyncClient(
            base_url=server, verify=context, trust_env=False, limits=_LIMITS
        )
        self._clients[config] = (digest, client)
        return client


def _credential(data: bytes, root: Root) -> tuple[str, ssl.SSLContext]:
    """Server and TLS context of a kubeconfig with embedded certificates, as kubeadm writes it."""
    try:
        document = yaml.safe_load(data)
        cluster = document["clusters"][0]["cluster"]
        user = document["users"][0]["user"]
        server = str(cluster["server"])
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        pair = base64.b64decode(user["client-certificate-data"]) + b"\n"
        pair += base64.b64decode(user["client-key-data"])
    except (KeyError, IndexError, TypeError, yaml.YAMLError) as exc:
        raise ValueError(f"not a kubeconfig as kubeadm writes it: {exc}") from exc
    context = ssl.create_default_context(cadata=authority)
    # ssl reads a client's key from a file only. It lies in memory (/run) and goes at once.
    place = f"{places.RUN}/client.pem"
    root.write(place, pair, mode=0o600)
    try:
        context.load_cert_chain(root.host_path(place))
    finally:
        root.remove(place)
    return server, context


def _words(exc: BaseException) -> str:
    """The innermost cause in one line, in the field's words."""
    chain: list[BaseException] = []
    cause: BaseException | None = exc
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(item, ConnectionRefusedError) for item in chain):
        return "connection refused"
    if isinstance(exc, httpx2.TimeoutException):
        return "no answer in time"
    return (str(exc) or type(exc).__name__).splitlines()[0][-300:]


def _message(answer: httpx2.Response) -> str:
    """Why the API server or a component says no."""
    if answer.status_code == 200:
        return ""
    try:
        told = str(answer.json().get("message", ""))
    except (ValueError, AttributeError):
        lines = [line for line in answer.text.splitlines() if line.strip()]
        told = lines[-1].strip() if lines else ""
    return f"HTTP {answer.status_code}: {told[-300:]}" if told else f"HTTP {answer.status_code}"


AnswerTo = Callable[[str, Mapping[str, str]], ApiAnswer | None]


@dataclass
class FakeKubeApi:
    """Answers from a script, for tests; the newest rule that answers wins, otherwise nobody does.

    A health address without a rule is well.
    """

    asked: list[str] = field(default_factory=list)
    _rules: list[AnswerTo] = field(default_factory=list)
    _unwell: dict[str, str] = field(default_factory=dict)

    def answer(self, path: str, document: Any = None, *, status: int = 200, text: str = "") -> None:
        """Answer a path with a JSON document, or with text."""
        body = text if document is None else json.dumps(document)

        def rule(asked: str, _: Mapping[str, str]) -> ApiAnswer | None:
            problem = "" if status == 200 else f"HTTP {status}"
            return ApiAnswer(status, body, problem) if asked == path else None

        self._rules.append(rule)

    def answer_with(self, rule: AnswerTo) -> None:
        """Answer by a function of path and query; None means: the next rule."""
        self._rules.append(rule)

    def unwell(self, url: str, problem: str) -> None:
        """Let a health address answer badly."""
        self._unwell[url] = problem

    async def get(
        self,
        path: str,
        *,
        config: str,
        query: Mapping[str, str] | None = None,
        timeout_s: float = 10,
    ) -> ApiAnswer:
        self.asked.append(path)
        for rule in reversed(self._rules):
            if (found := rule(path, query or {})) is not None:
                return found
        return ApiAnswer(0, problem="connection refused")

    async def probe(self, url: str, *, timeout_s: float = 10) -> str:
        self.asked.append(url)
        return self._unwell.get(url, "")

    async def close(self) -> None:
        return
