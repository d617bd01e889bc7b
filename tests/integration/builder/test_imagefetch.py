"""Images from a registry as registry.k8s.io answers: tokens, redirects, an index; all by digest."""

from __future__ import annotations

from typing import Any

import pytest

from skerry.builder.fetching import Fetcher, FetchFailed, WrongDigest
from skerry.builder.imagefetch import ImageInvalid, Registry

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

PAUSE = "registry.k8s.io/pause:3.10.2"


async def pull(fetcher: Fetcher, digest: str, **more: Any) -> Any:
    options = {"architecture": "amd64", "limit_bytes": 1 << 20, **more}
    return await Registry(fetcher).image(PAUSE, digest, **options)


async def test_an_anonymous_token_is_asked_for_and_stays_with_the_registry(
    upstream: Any, fetcher: Fetcher
) -> None:
    digest = upstream.image(PAUSE)
    upstream.secret["pause"] = "anonymous-2"
    upstream.give(
        "https://auth.registry.k8s.io/token?service=registry.k8s.io&scope=repository%3Apause%3Apull",
        b'{"access_token": "anonymous-2"}',
    )

    await pull(fetcher, digest)

    carried = {item.url.split("/")[2] for item in upstream.asked if "authorization" in item.headers}
    assert carried == {"registry.k8s.io"}
    assert any(item.url.startswith("https://blobs.registry") for item in upstream.asked)


async def test_a_registry_that_wants_a_password_is_refused(
    upstream: Any, fetcher: Fetcher, answer: Any
) -> None:
    digest = upstream.image(PAUSE)
    upstream.give(
        f"https://registry.k8s.io/v2/pause/manifests/{digest}",
        answer(status=401, headers={"www-authenticate": 'Basic realm="x"'}),
    )

    with pytest.raises(FetchFailed, match="wants a sign-in that is not anonymous"):
        await pull(fetcher, digest)


async def test_an_index_with_other_bytes_is_refused(upstream: Any, fetcher: Fetcher) -> None:
    digest = upstream.image(PAUSE)
    upstream.give(f"https://registry.k8s.io/v2/pause/manifests/{digest}", b'{"schemaVersion": 2}')

    with pytest.raises(WrongDigest, match=f"image {PAUSE} from .*wanted {digest}"):
        await pull(fetcher, digest)


async def test_a_layer_with_other_bytes_is_refused(upstream: Any, fetcher: Fetcher) -> None:
    digest = upstream.image(PAUSE)
    for url in [url for url in upstream.answers if "blobs.registry" in url]:
        upstream.give(url, upstream.answers[url][0].body[::-1])

    with pytest.raises(WrongDigest, match="has the wrong content"):
        await pull(fetcher, digest)


async def test_an_image_without_this_architecture_says_which_it_has(
    upstream: Any, fetcher: Fetcher
) -> None:
    digest = upstream.image(PAUSE)

    with pytest.raises(ImageInvalid) as caught:
        await pull(fetcher, digest, architecture="riscv64")

    assert caught.value.message == (
        f"image {PAUSE} is not for linux/riscv64, only for linux/amd64, linux/arm64"
    )


async def test_an_image_over_its_limit_is_refused_before_it_is_fetched(
    upstream: Any, fetcher: Fetcher
) -> None:
    digest = upstream.image(PAUSE)

    with pytest.raises(ImageInvalid, match="is larger than 10 bytes"):
        await pull(fetcher, digest, limit_bytes=10)

    assert not any("/blobs/" in item.url for item in upstream.asked)
