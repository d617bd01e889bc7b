"""One sentence per image that cannot be pulled; inputs are what kubelet 1.35 with containerd 2.2
puts into a pod's status."""

from __future__ import annotations

import pytest

from skerry.agent.kube import gate, pulls

IMAGE = "shop.example/web:1.0"
MIRROR = "10.200.7.1:5443"
START = f'failed to pull and unpack image "{IMAGE}": failed to resolve image: '
HEAD = f'failed to do request: Head "https://{MIRROR}/v2/web/manifests/1.0?ns=shop.example": '
TLS = "tls: failed to verify certificate: "
UNKNOWN = "x509: certificate signed by unknown authority"
OTHER = f"x509: certificate is valid for a.example, not {MIRROR}"
OWN = 'failed to do request: Head "https://shop.example/v2/web/manifests/1.0": '
ACCESS = "pull access denied, repository does not exist or may require authorization: "
PROXY = "proxyconnect tcp: dial tcp 10.0.0.2:3128: i/o timeout"
TOKEN = "failed to authorize: failed to fetch anonymous token: unexpected status from GET request"

TOLD = f"image {IMAGE} cannot be pulled"
DENIED = f"{TOLD}: registry shop.example does not accept this host's credentials"
NO_WAY = f"{TOLD}: registry {MIRROR} cannot be reached"
BAD_CERTIFICATE = f"{TOLD}: certificate of registry {MIRROR} is not accepted"

RECORDED = {
    "authority": (f"{START}{HEAD}{TLS}{UNKNOWN}", f"{BAD_CERTIFICATE}: {UNKNOWN}"),
    "name": (f"{START}{HEAD}{TLS}{OTHER}", f"{BAD_CERTIFICATE}: {OTHER}"),
    "password": (f"{START}{ACCESS}authorization failed: no basic auth credentials", DENIED),
    "token": (f"{START}{TOKEN} to https://auth.example/token: 401 Unauthorized", DENIED),
    "missing": (
        f"rpc error: code = NotFound desc = {START}{IMAGE}: not found",
        f"{TOLD}: registry shop.example does not have it",
    ),
    "refused": (
        f"{START}{HEAD}dial tcp {MIRROR}: connect: connection refused",
        f"{NO_WAY}: connection refused",
    ),
    "dns": (
        f"{START}{OWN}dial tcp: lookup shop.example on 10.0.0.1:53: no such host",
        f"{TOLD}: registry shop.example cannot be reached: no such host",
    ),
    "proxy": (f"{START}{HEAD}{PROXY}", f"{NO_WAY}: {PROXY}"),
    "odd": (
        f"{START}something: nobody expected",
        f"{TOLD} from registry shop.example: nobody expected",
    ),
    "nothing": ("", f"{TOLD} from registry shop.example: ErrImagePull"),
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_chain_of_errors_becomes_its_cause(name: str) -> None:
    message, wanted = RECORDED[name]

    assert pulls.explain(IMAGE, "ErrImagePull", message) == wanted


def test_the_same_cause_is_told_while_kubelet_waits() -> None:
    message, wanted = RECORDED["authority"]
    backing_off = f'Back-off pulling image "{IMAGE}": ErrImagePull: {message}'

    assert pulls.explain(IMAGE, "ImagePullBackOff", backing_off) == wanted


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("busybox", "docker.io"),
        ("library/busybox:1", "docker.io"),
        ("localhost/x:1", "localhost"),
        ("registry:5000/x:1", "registry:5000"),
        ("ghcr.io/a/b@sha256:00", "ghcr.io"),
    ],
)
def test_the_registry_is_the_one_of_the_name(image: str, registry: str) -> None:
    told = pulls.explain(image, "ErrImagePull", "not found")

    assert told == f"image {image} cannot be pulled: registry {registry} does not have it"


def test_an_image_that_may_not_be_pulled_says_how_it_gets_here() -> None:
    told = pulls.explain(IMAGE, "ErrImageNeverPull", "Container image is not present")

    assert "pull policy is Never" in told
    assert "artifact" in told


def test_a_long_cause_is_cut() -> None:
    assert len(pulls.explain(IMAGE, "ErrImagePull", f"x509: {'y' * 1000}")) == 300


def test_a_pod_that_waits_for_its_image_has_a_reason_of_its_own() -> None:
    message, wanted = RECORDED["missing"]
    waiting = {"reason": "ImagePullBackOff", "message": message}
    pod = {"status": {"containerStatuses": [{"image": IMAGE, "state": {"waiting": waiting}}]}}

    assert gate.pod_trouble(pod) == gate.Trouble(f": {wanted}", "ImagePullFailed")


def test_a_pod_that_crashes_is_no_matter_of_its_image() -> None:
    container = {
        "image": IMAGE,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 3}},
    }

    trouble = gate.pod_trouble({"status": {"containerStatuses": [container]}})

    assert trouble == gate.Trouble(f": CrashLoopBackOff of image {IMAGE}, exit code 3")
