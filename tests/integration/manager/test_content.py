"""Artifacts and blobs, install line, OpenAPI, figures."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shlex
from pathlib import Path

import anyio
import pytest

from skerry.lib import pki
from skerry.lib.digest import canonical_json, sha256
from skerry.manager.api.openapi import openapi
from skerry.wire import envelope as env
from skerry.wire import messages

from .conftest import Manager, path_of, problems_of

pytestmark = pytest.mark.anyio
DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "openapi.json"


async def test_upload_resumes_and_is_checked(manager: Manager) -> None:
    data = bytes(range(256)) * 40
    url = f"/v1/blobs/{sha256(data)}"
    half = len(data) // 2

    first = await manager.admin.put(
        url, content=data[:half], headers={"content-range": f"bytes 0-{half - 1}/{len(data)}"}
    )
    asked = await manager.admin.head(url)
    wrong = await manager.admin.put(
        url, content=b"x", headers={"content-range": f"bytes {half + 5}-{half + 5}/{len(data)}"}
    )
    rest = await manager.admin.put(
        url,
        content=data[half:],
        headers={"content-range": f"bytes {half}-{len(data) - 1}/{len(data)}"},
    )
    got = await manager.admin.get(url)

    assert (first.status_code, first.json()["offset"]) == (202, half)
    assert (asked.status_code, asked.headers["upload-offset"]) == (404, str(half))
    assert (wrong.status_code, wrong.json()["offset"]) == (409, half)
    assert rest.status_code == 201
    assert got.content == data


async def test_content_with_a_wrong_digest_is_thrown_away(manager: Manager) -> None:
    url = f"/v1/blobs/{sha256(b'right')}"

    answer = await manager.admin.put(url, content=b"wrong")
    again = await manager.admin.put(url, content=b"right")

    assert (answer.status_code, answer.json()["reason"]) == (409, "DigestMismatch")
    assert again.status_code == 201


async def test_artifact_is_complete_when_its_last_blob_arrives(manager: Manager) -> None:
    digest = await manager.release()
    name = "kubernetes-1-36-3-amd64"
    members = manager.centre.blobs.members(digest)
    layer = next(m for m in members if manager.centre.blobs.read_small(m).startswith(b"layer"))
    data = manager.centre.blobs.read_small(layer)
    await manager.admin.delete(path_of("artifacts", name))
    manager.centre.root.remove(manager.centre.blobs.path(layer))

    await manager.release_again(name)
    before = (await manager.admin.get(path_of("artifacts", name))).json()
    await manager.admin.put(f"/v1/blobs/{layer}", content=data)
    after = (await manager.admin.get(path_of("artifacts", name))).json()

    assert before["status"].get("complete", False) is False
    assert after["status"]["complete"] is True


@pytest.mark.parametrize("case", ["unsigned", "foreign key", "channel key", "other digest"])
async def test_artifact_without_a_trusted_release_signature_is_refused(
    manager: Manager, case: str
) -> None:
    statement = messages.ArtifactStatement(
        name="k", type="kubernetes", version="1.36.3", architecture="amd64", digest=sha256(b"m")
    )
    foreign = env.SigningKey(env.KeyRole.RELEASE, pki.new_signing_key())
    channel = env.SigningKey(env.KeyRole.RELEASE, manager.centre.keys.channel.key)
    release = manager.centre.keys.release
    assert release is not None
    keys = {
        "unsigned": [],
        "foreign key": [foreign],
        "channel key": [channel],
        "other digest": [release],
    }[case]
    envelope = env.sign(env.ARTIFACT, canonical_json(statement), keys).encode()
    await manager.blob(envelope)
    digest = sha256(b"other") if case == "other digest" else sha256(b"m")
    spec = {
        "type": "kubernetes",
        "version": "1.36.3",
        "digest": digest,
        "envelopeDigest": sha256(envelope),
    }

    answer = await manager.admin.put(
        path_of("artifacts", "k"),
        json={"kind": "Artifact", "metadata": {"name": "k"}, "spec": spec},
    )

    assert set(problems_of(answer)) == {"spec.envelopeDigest"}


async def test_artifact_never_changes(manager: Manager) -> None:
    await manager.release()
    name = "kubernetes-1-36-3-amd64"

    answer = await manager.admin.patch(
        path_of("artifacts", name), json={"spec": {"digest": sha256(b"new")}}
    )

    assert "never changes" in problems_of(answer)["spec"]


async def test_install_line_pins_root_and_script_and_hides_the_token(manager: Manager) -> None:
    made = await manager.apply("RegistrationToken", "registrationtokens", "t", {})
    line, secret = made["install"], made["secret"]
    script = (await manager.client().get("/install.sh")).content

    words = shlex.split(line)
    inner = words[-1]

    assert words[0] == f"SKERRY_TOKEN={secret}"
    assert words[1:3] == ["sh", "-c"]
    assert secret not in inner, "the token is never an argument"
    root = base64.b64decode(re.findall(r"echo (\S+) \| base64", inner)[0]).decode()
    assert root.strip() == manager.centre.keys.authority.certificate_pem.strip()
    assert hashlib.sha256(script).hexdigest() in inner
    assert b"SKERRY_TOKEN" in script
    assert b"--token" not in script


async def test_install_script_and_line_are_valid_shell(manager: Manager, tmp_path: Path) -> None:
    made = await manager.apply("RegistrationToken", "registrationtokens", "t", {})
    script = (await manager.client().get("/install.sh")).content
    inner = shlex.split(made["install"])[-1]

    for text in (script, inner.encode(), made["install"].encode()):
        done = await anyio.run_process(["sh", "-n"], input=text, check=False)
        assert done.returncode == 0, done.stderr


async def test_install_line_of_a_site_behind_a_proxy_leads_through_it(
    manager: Manager, tmp_path: Path
) -> None:
    proxy = "http://till:pass%20word@proxy.example:3128"
    made = await manager.apply("RegistrationToken", "registrationtokens", "t", {"proxy": proxy})
    # A curl that tells what it sees, in the place of the real one.
    curl = tmp_path / "curl"
    curl.write_text('#!/bin/sh\necho "$https_proxy|$no_proxy|$NO_PROXY|$*"; exit 7\n')
    curl.chmod(0o755)

    words = shlex.split(made["install"])
    done = await anyio.run_process(
        ["sh"],
        input=made["install"].encode(),
        check=False,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "no_proxy": "*", "NO_PROXY": "*"},
    )

    assert words[:2] == [f"SKERRY_TOKEN={made['secret']}", f"SKERRY_PROXY={proxy}"]
    assert proxy not in words[-1], "a password is never an argument"
    assert done.returncode == 7
    seen = done.stdout.decode().split("|")
    assert seen[:3] == [proxy, "", ""]
    assert "/install.sh" in seen[3]
    script = (await manager.client().get("/install.sh")).text
    assert 'export https_proxy="$SKERRY_PROXY"' in script


@pytest.mark.parametrize("proxy", ["proxy:3128", "socks5://p:1", "http://p:1; reboot", "http://"])
async def test_a_proxy_that_is_none_is_refused(manager: Manager, proxy: str) -> None:
    answer = await manager.admin.put(
        path_of("registrationtokens", "t"),
        json={"kind": "RegistrationToken", "metadata": {"name": "t"}, "spec": {"proxy": proxy}},
    )

    assert "is not the address of an HTTP proxy" in problems_of(answer)["spec.proxy"]


async def test_missing_agent_archive_is_said_plainly(manager: Manager) -> None:
    answer = await manager.client().get("/agent/amd64/skerry-agent.tar.gz")
    outside = await manager.client().get("/agent/..%2f..%2fkeys/skerry-agent.tar.gz")

    assert (answer.status_code, outside.status_code) == (404, 404)
    assert "--agent-archive" in answer.json()["hint"]


def test_openapi_document_is_current() -> None:
    text = json.dumps(openapi(), indent=2, sort_keys=True) + "\n"

    assert DOCUMENT.read_text() == text, (
        "write it again: python -m skerry.manager.api.openapi > docs/reference/openapi.json"
    )


def test_openapi_references_lead_somewhere() -> None:
    document = openapi()
    names = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))

    assert names <= set(document["components"]["schemas"])


async def test_every_documented_path_is_served(manager: Manager) -> None:
    served = {
        getattr(route, "path", "").replace("{action:str}", "approve")
        for route in manager.app.routes
    }

    for path in openapi()["paths"]:
        shown = path.replace("/deny", "/approve").replace(
            "/hosts/{name}/revoke", "/hosts/{name}/approve"
        )
        assert shown in served, path


async def test_health_and_figures_are_open(manager: Manager) -> None:
    await manager.ready_host("shop-1")
    client = manager.client()

    assert (await client.get("/healthz")).text == "ok\n"
    assert (await client.get("/readyz")).text == "ok\n"
    assert 'skerry_hosts{phase="Ready"} 1.0' in (await client.get("/metrics")).text
