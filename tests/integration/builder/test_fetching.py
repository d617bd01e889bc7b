"""Downloads from upstream: resumed, limited, checked; every refusal says what and what next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from skerry.builder.cache import Cache
from skerry.builder.fetching import Fetcher, FetchFailed, WrongDigest, open_http
from skerry.lib.digest import hex_of, sha256

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

KUBEADM = "https://dl.k8s.io/release/v1.36.3/bin/linux/amd64/kubeadm"
FAKE = b"fake kubeadm, not a program. " * 400


def leftovers(folder: Path) -> list[Path]:
    return list((folder / "cache" / "downloads" / "partial").iterdir())


async def get(fetcher: Fetcher, *, data: bytes = FAKE, limit: int = 1 << 20) -> Path:
    return await fetcher.file(KUBEADM, sha256(data), what="kubeadm", limit_bytes=limit)


async def test_a_body_that_breaks_off_goes_on_where_it_broke(
    upstream: Any, fetcher: Fetcher, clock: Any, answer: Any
) -> None:
    upstream.give(KUBEADM, answer(FAKE, cut=5000), answer(FAKE, cut=3000), FAKE)

    assert (await get(fetcher)).read_bytes() == FAKE

    ranges = [item.headers.get("range") for item in upstream.requests(KUBEADM)]
    assert ranges == [None, "bytes=5000-", "bytes=8000-"]
    assert clock.slept == [1.0, 2.0]


async def test_a_later_run_goes_on_where_an_earlier_one_gave_up(
    upstream: Any, fetcher: Fetcher, tmp_path: Path, answer: Any
) -> None:
    upstream.give(KUBEADM, answer(FAKE, cut=1000))
    with pytest.raises(FetchFailed) as caught:
        await get(fetcher)
    assert "the line to https://dl.k8s.io" in caught.value.message
    assert caught.value.hint == "run the same command again; what has arrived is kept"
    assert leftovers(tmp_path)[0].stat().st_size == 5000

    upstream.give(KUBEADM, FAKE)
    assert (await get(fetcher)).read_bytes() == FAKE
    assert upstream.requests(KUBEADM)[-1].headers["range"] == "bytes=5000-"
    assert leftovers(tmp_path) == []


async def test_a_server_without_ranges_sends_it_all_again(
    upstream: Any, fetcher: Fetcher, answer: Any
) -> None:
    upstream.give(KUBEADM, answer(FAKE, cut=5000), answer(FAKE, ranges=False))

    assert (await get(fetcher)).read_bytes() == FAKE


async def test_damaged_leftovers_are_thrown_away_once(
    upstream: Any, fetcher: Fetcher, tmp_path: Path
) -> None:
    upstream.give(KUBEADM, FAKE)
    partial = Cache(tmp_path / "cache").folder("downloads", "partial")
    (partial / hex_of(sha256(FAKE))).write_bytes(b"damaged")

    assert (await get(fetcher)).read_bytes() == FAKE


async def test_other_content_is_refused_and_not_kept(
    upstream: Any, fetcher: Fetcher, tmp_path: Path, clock: Any
) -> None:
    upstream.give(KUBEADM, b"forged")

    with pytest.raises(WrongDigest) as caught:
        await get(fetcher)

    assert caught.value.message == (
        f"kubeadm from {KUBEADM} has the wrong content: found {sha256(b'forged')},"
        f" locked {sha256(FAKE)}"
    )
    assert "do not use it" in caught.value.hint
    assert leftovers(tmp_path) == []
    assert fetcher.have(sha256(FAKE)) is None
    assert clock.slept == []


async def test_a_missing_file_is_refused_at_once(
    upstream: Any, fetcher: Fetcher, clock: Any
) -> None:
    with pytest.raises(FetchFailed) as caught:
        await get(fetcher)

    assert caught.value.message == f"kubeadm: upstream has nothing at {KUBEADM} (HTTP 404)"
    assert "released for this architecture" in caught.value.hint
    assert len(upstream.requests(KUBEADM)) == 1


@pytest.mark.parametrize("after", ["7", "Wed, 01 Jan 2020 00:00:00 GMT", ""])
async def test_a_busy_upstream_is_asked_again_when_it_says(
    upstream: Any, fetcher: Fetcher, clock: Any, answer: Any, after: str
) -> None:
    upstream.give(KUBEADM, answer(status=429, headers={"retry-after": after}), FAKE)

    await get(fetcher)

    assert clock.slept == [7.0 if after == "7" else 1.0]


async def test_a_very_long_wait_is_left_to_the_person(
    upstream: Any, fetcher: Fetcher, clock: Any, answer: Any
) -> None:
    upstream.give(KUBEADM, answer(status=429, headers={"retry-after": "3600"}))

    with pytest.raises(FetchFailed, match="asks to wait 3600 s"):
        await get(fetcher)

    assert clock.slept == []


async def test_an_ill_upstream_is_asked_five_times(
    upstream: Any, fetcher: Fetcher, clock: Any, answer: Any
) -> None:
    upstream.give(KUBEADM, answer(status=503))

    with pytest.raises(FetchFailed, match="answered HTTP 503"):
        await get(fetcher)

    assert len(upstream.requests(KUBEADM)) == 5
    assert clock.slept == [1.0, 2.0, 4.0, 8.0]


async def test_a_file_over_its_limit_is_refused_and_not_kept(
    upstream: Any, fetcher: Fetcher, tmp_path: Path
) -> None:
    upstream.give(KUBEADM, FAKE)

    with pytest.raises(FetchFailed, match="is larger than 100 bytes"):
        await get(fetcher, limit=100)

    assert leftovers(tmp_path) == []


async def test_a_redirect_that_leaves_tls_is_not_followed(upstream: Any, fetcher: Fetcher) -> None:
    upstream.redirect(KUBEADM, "http://login.portal.example/")

    with pytest.raises(FetchFailed) as caught:
        await get(fetcher)

    assert caught.value.message == (
        "http://login.portal.example/ is not encrypted and is not followed"
    )
    assert upstream.tunnels == ["dl.k8s.io:443"]


async def test_a_circle_of_redirects_ends(upstream: Any, fetcher: Fetcher) -> None:
    upstream.redirect(KUBEADM, KUBEADM)

    with pytest.raises(FetchFailed, match="leads on more than 5 times"):
        await get(fetcher)


async def test_an_unknown_authority_is_named_as_such(
    upstream: Any, clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    upstream.give(KUBEADM, FAKE)

    async with open_http() as http:
        with pytest.raises(FetchFailed) as caught:
            await get(Fetcher(http, Cache(tmp_path / "cache"), clock))

    assert f"the certificate of {KUBEADM} is not accepted" in caught.value.message
    assert "SSL_CERT_FILE" in caught.value.hint


async def test_a_proxy_that_refuses_is_named_as_such(upstream: Any, fetcher: Fetcher) -> None:
    with pytest.raises(FetchFailed) as caught:
        await fetcher.file("https://elsewhere.example/x", sha256(b""), what="x", limit_bytes=1)

    assert "the proxy refuses the way to https://elsewhere.example/x" in caught.value.message
    assert caught.value.hint == "check HTTPS_PROXY and NO_PROXY"
