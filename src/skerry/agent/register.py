"""Registration: from an install line to an approved host.

Asking is idempotent by the host's key: the agent asks again until the manager approves or denies,
and a lost answer costs nothing. The token is forgotten as soon as the manager gave an answer that
stands.
"""

from __future__ import annotations

import msgspec
import structlog

from skerry import __version__
from skerry.agent import paths
from skerry.agent.channel import Channel, public_keys
from skerry.agent.identity import HostKeys, Identity, save_identity
from skerry.lib.files import Root
from skerry.wire.messages import EnrolRequest, EnrolState, HostFacts

log = structlog.get_logger("skerry.agent.register")


def prepare(root: Root, identity: Identity, *, token: str) -> None:
    """Remember where to register and with which token. Nothing is sent yet."""
    save_identity(root, identity)
    if token:
        root.write(paths.TOKEN, token.encode(), mode=0o600)


async def ask(
    root: Root,
    channel: Channel,
    identity: Identity,
    keys: HostKeys,
    facts: HostFacts,
    *,
    labels: dict[str, str],
    site: str,
) -> tuple[Identity, float]:
    """Ask once; the identity after the answer (saved) and seconds until the next question.

    Raises ChannelFailed, ChannelRefused.
    """
    public, sealing = public_keys(keys)
    token = root.read(paths.TOKEN).decode() if root.exists(paths.TOKEN) else ""
    answer = await channel.enrol(
        EnrolRequest(
            agent_version=__version__,
            public_key=public,
            sealing_key=sealing,
            facts=facts,
            token=token,
            labels=labels,
            site=site,
        )
    )
    after = _merge(identity, answer)
    if after != identity:
        save_identity(root, after)
        log.info("registration.changed", state=after.state, reason=after.reason)
    if answer.state in ("approved", "denied"):
        forget_token(root)
    return after, float(answer.retry_s)


def forget_token(root: Root) -> None:
    """Also called when a registered host starts: it may have died between answer and here."""
    if root.exists(paths.TOKEN):
        root.remove(paths.TOKEN)


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
        trusted_keys=answer.trusted_keys or identity.trusted_keys,
        authorities=answer.authorities or identity.authorities,
    )
