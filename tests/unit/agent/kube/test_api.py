"""Questions to the API server: by the kubeconfig's credential, over one connection."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
import trustme
import yaml
from anyio.streams.tls import TLSListener

from skerry.agent.kube import places
from skerry.agent.kube.api import HttpKubeApi
from skerry.lib.files import DiskRoot

pytestmark = pytest.mark.anyio


class FakeApiServer:
    """Answers /readyz with ok, /missing with a Status; remembers who asked how often."""

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.connections = 0
        self.names: list[str] = []
        self.port = 0

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_OPTIONAL
        self.authority.issue_cert("127.0.0.1").configure_cert(context)
        self.authority.configure_trust(context)
        plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.port = plain.extra(anyio.abc.SocketAttribute.local_port)
        task_status.started()
        async with TLSListener(plain, context, standard_compatible=False) as listener:
            await listener.serve(self._connection)

    async def _connection(self, stream: anyio.abc.ByteStream) -> None:
        self.connections += 1
        peer = stream.extra(anyio.streams.tls.TLSAttribute.peer_certificate, None)
        if peer:
            self.names.append(str(peer["subject"]))
        async with stream:
            while True:
                request = b""
                while b"\r\n\r\n" not in request:
                    try:
                        request += await stream.receive()
                    except (anyio.EndOfStream, anyio.BrokenResourceError):
                        return
                path = request.split(b" ")[1]
                code, body = b"200 OK", b"ok"
                if path.startswith(b"/missing"):
                    code, body = b"404 Not Found", b'{"message": "no such thing"}'
                elif path.startswith(b"/sick"):
                    code, body = b"500 Bad", b"[+]ping ok\n[-]etcd failed\n"
                head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (code, len(body))
                await stream.send(head + body)


def write_config(root: DiskRoot, server: FakeApiServer, name: str) -> None:
    pair = server.authority.issue_cert(common_name=name)
    text = yaml.safe_dump(
        {
            "clusters": [
                {
                    "cluster": {
                        "server": f"https://127.0.0.1:{server.port}",
                        "certificate-authority-data": _b64(server.authority.cert_pem.bytes()),
                    }
                }
            ],
            "users": [
                {
                    "user": {
                        "client-certificate-data": _b64(pair.cert_chain_pems[0].bytes()),
                        "client-key-data": _b64(pair.private_key_pem.bytes()),
                    }
                }
            ],
        }
    )
    root.write(places.ADMIN_CONF, text.encode(), mode=0o600)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def root(tmp_path: Path) -> DiskRoot:
    return DiskRoot(str(tmp_path))


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    made = FakeApiServer()
    async with anyio.create_task_group() as tg:
        await tg.start(made.serve)
        yield made
        tg.cancel_scope.cancel()


async def test_many_questions_share_one_connection_with_the_kubeconfigs_credential(
    root: DiskRoot, server: FakeApiServer
) -> None:
    write_config(root, server, "kubernetes-admin")
    api = HttpKubeApi(root)

    answers = [await api.get("/readyz", config=places.ADMIN_CONF) for _ in range(3)]
    await api.close()

    assert [(answer.ok, answer.text) for answer in answers] == [(True, "ok")] * 3
    assert server.connections == 1
    assert "kubernetes-admin" in server.names[0]


async def test_the_key_does_not_stay_in_a_file(root: DiskRoot, server: FakeApiServer) -> None:
    write_config(root, server, "kubernetes-admin")
    api = HttpKubeApi(root)

    await api.get("/readyz", config=places.ADMIN_CONF)
    await api.close()

    assert root.list(places.RUN) == []


async def test_a_renewed_credential_is_used_at_once(root: DiskRoot, server: FakeApiServer) -> None:
    api = HttpKubeApi(root)
    for name in ("first", "second"):
        write_config(root, server, name)
        await api.get("/readyz", config=places.ADMIN_CONF)
    await api.close()

    assert all(word in found for word, found in zip(("first", "second"), server.names, strict=True))
    assert server.connections == 2


async def test_a_refusal_is_told_in_the_servers_own_words(
    root: DiskRoot, server: FakeApiServer
) -> None:
    write_config(root, server, "kubernetes-admin")
    api = HttpKubeApi(root)

    missing = await api.get("/missing", config=places.ADMIN_CONF)
    sick = await api.probe(f"https://127.0.0.1:{server.port}/sick")
    well = await api.probe(f"https://127.0.0.1:{server.port}/livez")
    await api.close()

    assert (missing.status, missing.problem) == (404, "HTTP 404: no such thing")
    assert sick == "HTTP 500: [-]etcd failed"
    assert well == ""


@pytest.mark.parametrize("text", [b"", b"users: []", b"{", b"clusters: [{cluster: {}}]", b"- 1"])
async def test_a_kubeconfig_that_is_none_is_no_answer(root: DiskRoot, text: bytes) -> None:
    root.write(places.ADMIN_CONF, text)
    api = HttpKubeApi(root)

    answer = await api.get("/readyz", config=places.ADMIN_CONF)

    assert answer.status == 0
    assert answer.problem


async def test_a_server_that_is_not_there_is_one_word(
    root: DiskRoot, server: FakeApiServer
) -> None:
    write_config(root, server, "kubernetes-admin")
    text = root.read(places.ADMIN_CONF).replace(str(server.port).encode(), b"1")
    root.write(places.ADMIN_CONF, text)
    api = HttpKubeApi(root)

    answer = await api.get("/readyz", config=places.ADMIN_CONF)
    told = await api.probe("http://127.0.0.1:1/healthz")
    gone = await api.get("/readyz", config="/etc/kubernetes/none.conf")
    await api.close()

    assert answer.problem == told == "connection refused"
    assert gone.problem == "/etc/kubernetes/none.conf is not there"
