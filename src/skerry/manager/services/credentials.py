"""What a request to enrol proves: a token, a pairing key, or only facts that pre-fill.

Judging is pure; nothing is used up here. What is taken is handed on as a `Take`, so that it
counts in the transaction that makes the host and nowhere else.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime

from skerry.manager.auth.decide import Principal
from skerry.manager.services.centre import Caller, Centre
from skerry.manager.services.present import token_counter
from skerry.manager.services.tokens import hash_secret, is_junk
from skerry.manager.store.protocol import AnyResource, Query, Take
from skerry.model.meta import DEFAULT_PROJECT
from skerry.wire.messages import EnrolRequest


@dataclass(frozen=True, slots=True)
class Asking:
    """A request to enrol whose signature was checked. `counter` belongs to its key."""

    request: EnrolRequest
    fingerprint: str
    address: str
    counter: int

    @property
    def caller(self) -> Caller:
        return Caller(Principal(f"host:{self.fingerprint[:16]}"), self.address)


@dataclass(frozen=True, slots=True)
class Credential:
    """What a request proves: where the host belongs and whether it comes in by itself."""

    project: str = DEFAULT_PROJECT
    site: str = ""
    labels: dict[str, str] | None = None
    name: str = ""
    approves: bool = False
    proven: bool = False
    take: Take | None = None
    claim: AnyResource | None = None
    token: AnyResource | None = None
    denied: str = ""
    message: str = ""


async def credential_of(centre: Centre, asking: Asking) -> Credential:
    request = asking.request
    if request.token:
        return await _by_token(centre, asking)
    if request.pairing_key:
        found = await _claim_by(centre, "spec.pairingKeyHash", hash_secret(request.pairing_key))
        if found is None:
            return Credential(denied="TokenUnknown", message="the pairing key is not known here")
        return _from_claim(found, approves=True)
    looks = [("spec.hostId", request.facts.hardware_id), ("spec.serial", request.facts.serial)]
    looks += [("spec.mac", mac.lower()) for mac in request.facts.macs[:32]]
    for path, value in looks:
        if value and not is_junk(value) and (found := await _claim_by(centre, path, value)):
            return _from_claim(found, approves=False)
    return Credential()


async def _by_token(centre: Centre, asking: Asking) -> Credential:
    page = await centre.store.list(
        Query(
            "RegistrationToken",
            fields={"status.secretHash": hash_secret(asking.request.token)},
            limit=1,
        )
    )
    if not page.items:
        return Credential(denied="TokenUnknown", message="the registration token is not known here")
    token = page.items[0]
    reason, message = judge_token(token, asking.address, centre.clock.now())
    if reason:
        return Credential(denied=reason, message=message, token=token)
    return Credential(
        project=token.project,
        token=token,
        site=token.spec.site,
        labels=token.spec.labels,
        approves=token.spec.auto_approve,
        proven=True,
        take=Take(token_counter(token.uid), token.spec.maximum_uses),
    )


def judge_token(token: AnyResource, address: str, now: datetime) -> tuple[str, str]:
    """(reason, message) of why a token does not count here and now, or ("", "")."""
    spec = token.spec
    if spec.revoked or token.metadata.deleted_at is not None:
        return "TokenRevoked", f"registration token {token.name} was revoked"
    if spec.expires_at is not None and now >= spec.expires_at:
        return "TokenExpired", (
            f"registration token {token.name} expired at {spec.expires_at:%Y-%m-%d %H:%M} UTC"
        )
    if spec.allowed_networks and not _inside(address, spec.allowed_networks):
        return "NetworkNotAllowed", f"token {token.name} is not for address {address}"
    return "", ""


def _inside(address: str, networks: tuple[str, ...]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    plain = mapped or parsed
    return any(plain in ipaddress.ip_network(item) for item in networks)


async def _claim_by(centre: Centre, path: str, value: str) -> AnyResource | None:
    page = await centre.store.list(Query("HostClaim", fields={path: value}, limit=10))
    return next((item for item in page.items if not item.status.claimed_by), None)


def _from_claim(claim: AnyResource, *, approves: bool) -> Credential:
    return Credential(
        project=claim.project,
        site=claim.spec.site,
        labels=claim.spec.labels,
        name=claim.spec.host_name,
        approves=approves,
        proven=approves,
        claim=claim,
    )
