"""A real image registry on this computer's side of a lab: TLS, one account, images pushed to it.

The program is the CNCF's `distribution`, built from the Go module system like a release's
components and kept in the same cache. It is part of the lab, not of any release.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc
import httpx2
from cryptography.hazmat.primitives.asymmetric import ec

from skerry.builder.cache import Cache
from skerry.builder.gomodules import build_component, probe_toolchain
from skerry.builder.recipes import Recipe
from skerry.lab.errors import LabError
from skerry.lib import pki
from skerry.lib.clock import Clock
from skerry.lib.digest import hex_of, sha256
from skerry.lib.oci import Layout
from skerry.lib.proc import Runner
from skerry.model.release import IMAGE_KEY

VERSION = "3.1.2"
RECIPE = Recipe(
    name="registry",
    version=VERSION,
    requires={"github.com/distribution/distribution/v3": f"v{VERSION}"},
    programs={"registry": "github.com/distribution/distribution/v3/cmd/registry"},
)

USER, PASSWORD = "till", "harbour-lights"  # of the lab's own registry
# The password's bcrypt hash; the registry takes no other kind and Python has no bcrypt.
_ACCOUNTS = f"{USER}:$2b$06$abcdefghijklmnopqrstuuHEh/XYrcNksMnzv4kr07Ug1r1BNEulW\n"
_START_LIMIT_S = 20.0
_STOP_LIMIT_S = 10.0


async def registry_program(cache: Cache, runner: Runner, env: Mapping[str, str]) -> Path:
    """The program, built once per cache."""
    component = await build_component(
        RECIPE, toolchain=await probe_toolchain(runner), cache=cache, runner=runner, env=env
    )
    return component.program("registry")


@dataclass(frozen=True, slots=True)
class Pushed:
    """An image in the registry."""

    repository: str
    tag: str
    digest: str


class ImageRegistry:
    """An async context that serves on `address`; its content lies in `folder`."""

    def __init__(
        self, program: Path, folder: Path, *, address: str, port: int, clock: Clock
    ) -> None:
        self._program = program
        self._folder = folder
        self._clock = clock
        self._process: anyio.abc.Process | None = None
        self.host = f"{address}:{port}"
        self._address = address
        self._authority = pki.new_authority("lab registry", now=clock.now())

    @property
    def ca_pem(self) -> str:
        """The authority of its certificate."""
        return self._authority.certificate_pem

    async def __aenter__(self) -> Self:
        self._write_files()
        log = (self._folder / "log").open("wb")
        try:
            self._process = await anyio.open_process(
                [str(self._program), "serve", str(self._folder / "config.yml")],
                stdout=log,
                stderr=log,
                # It would look for a collector of traces otherwise, and say so all the time.
                env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
            )
        finally:
            log.close()
        try:
            await self._wait()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    async def push(self, layout: Path, *, repository: str, tag: str) -> Pushed:
        """Push the only image of an images artifact under another name."""
        files = _image_files(layout)
        (pointer,) = json.loads(files["index.json"])["manifests"]
        manifest = files[f"blobs/sha256/{hex_of(pointer['digest'])}"]
        described = json.loads(manifest)
        async with self._client() as http:
            for part in (described["config"], *described["layers"]):
                data = files[f"blobs/sha256/{hex_of(part['digest'])}"]
                begun = await http.post(f"/v2/{repository}/blobs/uploads/")
                begun.raise_for_status()
                done = await http.put(
                    httpx2.URL(begun.headers["location"]).copy_merge_params(
                        {"digest": part["digest"]}
                    ),
                    content=data,
                )
                done.raise_for_status()
            put = await http.put(
                f"/v2/{repository}/manifests/{tag}",
                content=manifest,
                headers={"content-type": pointer["mediaType"]},
            )
            put.raise_for_status()
        return Pushed(repository, tag, sha256(manifest))

    def log(self) -> str:
        """What it said, with one line per request."""
        return (self._folder / "log").read_text(errors="replace")

    def _client(self) -> httpx2.AsyncClient:
        import ssl

        return httpx2.AsyncClient(
            base_url=f"https://{self.host}",
            auth=(USER, PASSWORD),
            verify=ssl.create_default_context(cadata=self.ca_pem),
            trust_env=False,
            timeout=10,
        )

    def _write_files(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = pki.issue_server_certificate(
            self._authority,
            key.public_key(),
            names=[self._address],
            now=self._clock.now().astimezone(UTC),
        )
        (self._folder / "tls.key").touch(mode=0o600)
        (self._folder / "tls.key").write_bytes(pki.private_pem(key))
        (self._folder / "tls.crt").write_text(pki.certificate_pem(certificate))
        (self._folder / "accounts").write_text(_ACCOUNTS)
        place = str(self._folder)
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "info", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": f"{place}/content"}},
            "auth": {"htpasswd": {"realm": "lab", "path": f"{place}/accounts"}},
            "http": {
                "addr": self.host,
                "tls": {"certificate": f"{place}/tls.crt", "key": f"{place}/tls.key"},
            },
        }
        # JSON is YAML.
        (self._folder / "config.yml").write_text(json.dumps(config, indent=2))

    async def _wait(self) -> None:
        end = self._clock.monotonic() + _START_LIMIT_S
        async with self._client() as http:
            while True:
                try:
                    answer = await http.get("/v2/")
                    said = f"HTTP {answer.status_code}"
                    if answer.status_code == 200:
                        return
                except httpx2.TransportError as exc:
                    said = str(exc) or type(exc).__name__
                ended = self._process is not None and self._process.returncode is not None
                if ended or self._clock.monotonic() > end:
                    raise LabError(
                        f"the image registry does not answer at {self.host}: {said}",
                        hint=f"its last words: {self.log()[-500:]}",
                    )
                await self._clock.sleep(0.1)

    async def _stop(self) -> None:
        if self._process is None:
            return
        with anyio.CancelScope(shield=True):
            if self._process.returncode is None:
                self._process.terminate()
            with anyio.move_on_after(_STOP_LIMIT_S) as limit:
                await self._process.wait()
            if limit.cancelled_caught:
                self._process.kill()
                await self._process.wait()
            await self._process.aclose()


def _image_files(layout: Path) -> dict[str, bytes]:
    """Files of the image tar in an images artifact."""
    opened = Layout.open(layout)
    _, manifest = opened.only_manifest()
    (layer,) = (item for item in manifest.layers if IMAGE_KEY in item.annotations)
    data = gzip.decompress(opened.blob_path(layer.digest).read_bytes())
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {item.name: archive.extractfile(item) for item in archive if item.isreg()}
        return {name: stream.read() for name, stream in found.items() if stream is not None}
