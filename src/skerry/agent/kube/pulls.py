"""Why an image cannot be pulled: one sentence that names image and registry.

kubelet and containerd say why as a chain of wrapped errors that begins with what everybody knows
and ends with the cause. Forms as written by kubelet's image manager (Back-off pulling image "X":
ErrImagePull: ...) and containerd's resolver (core/remotes/docker), checked against 1.35 and 2.2.
"""

from __future__ import annotations

import re

# kubelet's reasons of a container that waits for its image.
REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)

_URL = re.compile(r"https?://([^/\s\"]+)/v2/")
_CERTIFICATE = re.compile(r"(?:tls: failed to verify certificate: )?(x509: .*)", re.DOTALL)
_NETWORK = re.compile(
    r"(no such host|connection refused|connection reset by peer|i/o timeout|network is unreachable"
    r"|no route to host|TLS handshake timeout|context deadline exceeded|server gave HTTP response"
    r"|server misbehaving|proxyconnect tcp: .*|Forbidden$)",
    re.MULTILINE,
)
_DENIED = (
    "no basic auth credentials",
    "authorization failed",
    "pull access denied",
    "401 Unauthorized",
    "403 Forbidden",
    "insufficient_scope",
    "failed to fetch anonymous token",
    "failed to fetch oauth token",
)
_MOST = 300


def explain(image: str, reason: str, message: str) -> str:
    """One sentence for people. `reason` and `message` are those of the waiting container."""
    told = f"image {image} cannot be pulled"
    if reason == "ErrImageNeverPull":
        return (
            f"image {image} is not on this host and its pull policy is Never: list an artifact"
            " that brings it in the layer"
        )
    if reason == "InvalidImageName":
        return f"{told}: its name is not valid"
    registry = _registry(image, message)
    if found := _CERTIFICATE.search(message):
        return _cut(f"{told}: certificate of registry {registry} is not accepted: {found[1]}")
    if any(words in message for words in _DENIED):
        return f"{told}: registry {registry} does not accept this host's credentials"
    if found := _NETWORK.search(message):
        return _cut(f"{told}: registry {registry} cannot be reached: {found[0]}")
    if "not found" in message:
        return f"{told}: registry {registry} does not have it"
    return _cut(f"{told} from registry {registry}: {_last(message) or reason}")


def _registry(image: str, message: str) -> str:
    """The registry or mirror that the message names, else the one of the image's name."""
    if found := _URL.search(message):
        return found[1]
    first, slash, _ = image.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    return first if named else "docker.io"


def _last(message: str) -> str:
    """The innermost error of a chain."""
    return message.strip().rpartition(": ")[2]


def _cut(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= _MOST else f"{plain[: _MOST - 1]}…"
