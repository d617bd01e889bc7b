"""Registration: from an install line to an approved host.

Asking is idempotent by the host's key: the agent asks again until the manager approves or denies,
and a lost answer costs nothing. The token is forgotten as soon as the manager gave an answer that
stands. Release keys are taken once, with the first answer that brings any (see `_trusted`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import structlog

from skerry import __version__
from skerry.agent import paths
from skerry.agent.channel import Channel, public_keys
from skerry.agent.identity import HostKeys, Identity, save_identity
from skerry.lib.files import Root
from skerry.lib.pki import load_certificate
from skerry.wire.envelope import KeyRole, TrustedKey
from skerry.wire.messages import EnrolRequest, EnrolState, HostFacts, RenewRequest

log = structlog.get_logger("skerry.agent.register")

_RENEW_BEFORE = timedelta(days=30)


_SECRETS = (
    (paths.TOKEN, paths.VOLATILE_TOKEN),
    (paths.PAIRING_KEY, paths.VOLATILE_PAIRING_KEY),
)


def prepare(
    root: Root,
    identity: Identity,
    *,
    token: str = "",
    pairing_key: str = "",
    volatile: bool = False,
) -> None:
    """Remember where to register and with which secret; a `volatile` one in memory only. Nothing
    is sent yet."""
    # Secrets first: whoever sees the identity starts to ask.
    for places, secret in zip(_SECRETS, (token, pairing_key), strict=True):
        path = places[1 if volatile else 0]
        if secret:
            root.write(path, secret.encode(), mode=0o600)
    save_identity(root, identity)


async def ask(
    root: Root,
    channel: Channel,
    identity: Identity,
    keys: HostKeys,
    facts: HostFacts,
    *,
    labels: dict[str, str] | None = None,
    site: str = "",
) -> tuple[Identity, float]:
    """Ask once; the identity after the answer (saved) and seconds until the next question.

    Raises ChannelFailed, ChannelRefused.
    """
    public, sealing = public_keys(keys)
    answer = await channel.enrol(
        EnrolRequest(
            agent_version=__version__,
            public_key=public,
            sealing_key=sealing,
            facts=facts,
            token=_secret(root, *_SECRETS[0]),
            pairing_key=_secret(root, *_SECRETS[1]),
            labels=identity.labels if labels is None else labels,
            site=site or identity.site,
        )
    )
    after = _merge(identity, answer)
    if after != identity:
        save_identity(root, after)
        log.info("registration.changed", state=after.state, reason=after.reason)
    if answer.state in ("approved", "denied"):
        forget_secrets(root)
    return after, float(answer.retry_s)


def forget_secrets(root: Root) -> None:
    """Also called when a registered host starts: it may have died between answer and here."""
    for places in _SECRETS:
        for path in places:
            if root.exists(path):
                root.remove(path)


def _secret(root: Root, kept: str, volatile: str) -> str:
    """The newest one: a volatile secret was brought after the kept one."""
    for path in (volatile, kept):
        if root.exists(path):
            return root.read(path).decode()
    return ""


def renewal_due_at(identity: Identity) -> datetime:
    """When the registration certificate is to be renewed: 30 days before its end, or in the last
    third of a shorter life; long ago without one. Raises BadKey."""
    if not identity.certificate:
        return datetime.min.replace(tzinfo=UTC)
    certificate = load_certificate(identity.certificate)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return ends - min(_RENEW_BEFORE, (ends - begins) / 3)


async def renew(root: Root, channel: Channel, identity: Identity, keys: HostKeys) -> Identity:
    """A fresh certificate for the same key; the identity with it (saved).

    It does not matter whether the old one has expired: the request is signed by the host's key,
    and only a revoked host is refused. Keys and roots of the answer are not taken over: who holds
    the channel key must not bring in a release key this way.
    Raises ChannelFailed, ChannelRefused.
    """
    public, _ = public_keys(keys)
    answer = await channel.renew(RenewRequest(public_key=public))
    after = msgspec.structs.replace(identity, certificate=answer.certificate)
    save_identity(root, after)
    log.info("registration.renewed")
    return after


def _merge(identity: Identity, answer: EnrolState) -> Identity:
    return msgspec.structs.replace(
        identity,
        state=answer.state,
        reason=answer.reason,
        message=answer.message,
        registration_code=answer.registration_code,
        host_uid=answer.host_uid or identity.host_uid,
        host_name=answer.host_name or identity.host_name,
        project=answer.project or identity.project,
        certificate=answer.certificate or identity.certificate,
        trusted_keys=_trusted(identity.trusted_keys, answer.trusted_keys),
        authorities=answer.authorities or identity.authorities,
    )


def _trusted(have: tuple[TrustedKey, ...], told: tuple[TrustedKey, ...]) -> tuple[TrustedKey, ...]:
    """The manager may bring its own channel keys anew, release keys only the first time.

    A revoked host asks again, and whoever holds the manager's keys could answer with release keys
    of their own. Another release key needs somebody on the machine who runs the install line.
    """
    pinned = tuple(key for key in have if key.role is KeyRole.RELEASE)
    if not told or not pinned:
        return told or have
    return (*pinned, *(key for key in told if key.role is not KeyRole.RELEASE))
