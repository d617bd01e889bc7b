"""Registration tokens and host claims.

A token's secret is shown once, at creation, with the line that installs the agent; stored is its
SHA-256 (it has 160 random bits, so a slow hash adds nothing). Uses are a counter of the store,
taken in the transaction that makes the host.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets as random
from datetime import timedelta

import msgspec

from skerry.manager.services import install
from skerry.manager.services.centre import Caller, Centre, audit, event, require
from skerry.manager.services.draft import Draft
from skerry.manager.services.present import shown
from skerry.manager.store.protocol import AnyResource, Conflict, Put, WriteSet
from skerry.model.kinds import HostClaimSpec, RegistrationTokenSpec
from skerry.model.labels import check_labels
from skerry.model.problems import Problem

_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
# Name or address, port, and perhaps a user with a password (percent-encoded).
_PROXY = re.compile(
    r"https?://([A-Za-z0-9._~%-]+(:[A-Za-z0-9._~%-]*)?@)?([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:\d{1,5})?/?"
)
_JUNK = re.compile(
    r"(0+|f+|x+|none|n/?a|unknown|default( string)?|not (specified|applicable|available|set).*"
    r"|to be filled.*|(system|chassis) serial number|serial|0?123456789.*|empty|-+|\.+)",
    re.IGNORECASE,
)


def hash_secret(secret: str) -> str:
    """What is stored of a random secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def is_junk(text: str) -> bool:
    """Whether a hardware fact is a vendor's filler, which never identifies anything."""
    plain = text.strip()
    return len(plain) < 4 or _JUNK.fullmatch(plain.replace("-", "").replace(":", "")) is not None


async def prepare_token(
    centre: Centre, caller: Caller, old: AnyResource | None, new: AnyResource
) -> Draft:
    """Default expiry, and at creation the secret."""
    spec: RegistrationTokenSpec = new.spec
    problems = check_labels("spec.labels", spec.labels)
    for index, network in enumerate(spec.allowed_networks):
        try:
            ipaddress.ip_network(network)
        except ValueError:
            problems.append(
                Problem(
                    path=f"spec.allowedNetworks[{index}]",
                    message=f"{network[:60]!r} is not a network",
                    hint="write it as 192.0.2.0/24",
                )
            )
    if spec.proxy and _PROXY.fullmatch(spec.proxy) is None:
        problems.append(
            Problem(
                path="spec.proxy",
                message="is not the address of an HTTP proxy",
                hint="write it as http://proxy.example:3128",
            )
        )
    now = centre.clock.now()
    if spec.expires_at is None:
        expires = old.spec.expires_at if old else now + timedelta(hours=centre.settings.token_hours)
        spec = msgspec.structs.replace(spec, expires_at=expires)
    elif spec.expires_at.tzinfo is None:
        problems.append(
            Problem(path="spec.expiresAt", message="has no time zone", hint="end it with Z")
        )
    elif old is None and spec.expires_at <= now:
        problems.append(Problem(path="spec.expiresAt", message="is in the past"))
    if problems:
        return Draft(new, problems=tuple(problems))
    new = msgspec.structs.replace(new, spec=spec)
    if old is not None:
        return Draft(new)
    secret = random.token_hex(20)
    new = msgspec.structs.replace(
        new, status=msgspec.structs.replace(new.status, secret_hash=hash_secret(secret))
    )
    line = install.install_line(centre, secret, proxy=spec.proxy)
    return Draft(new, once={"secret": secret, "install": line})


async def revoke(centre: Centre, caller: Caller, project: str, name: str) -> AnyResource:
    """Make a token useless at once. Hosts that it let in stay."""
    require(caller, "revoke", "RegistrationToken", project)
    for _ in range(8):
        token = await centre.store.get("RegistrationToken", project, name)
        if token.spec.revoked:
            break
        spec = msgspec.structs.replace(token.spec, revoked=True)
        try:
            await centre.store.commit(
                WriteSet(
                    puts=(Put(msgspec.structs.replace(token, spec=spec), token.metadata.revision),),
                    events=(event(centre, token, "Revoked", f"by {caller.name}"),),
                    audits=(audit(centre, caller, "revoke", token),),
                )
            )
        except Conflict:
            continue
        break
    return await shown(centre, await centre.store.get("RegistrationToken", project, name))


async def prepare_claim(
    centre: Centre, caller: Caller, old: AnyResource | None, new: AnyResource
) -> Draft:
    """A claim needs something that can identify a host."""
    spec: HostClaimSpec = new.spec
    problems = check_labels("spec.labels", spec.labels)
    if old is not None and spec.pairing_key_hash == "(set)":
        spec = msgspec.structs.replace(spec, pairing_key_hash=old.spec.pairing_key_hash)
    spec = msgspec.structs.replace(spec, mac=spec.mac.lower().replace("-", ":"))
    if not (spec.host_id or spec.serial or spec.mac or spec.pairing_key_hash):
        problems.append(
            Problem(
                path="spec",
                message="names nothing that a host could be known by",
                hint="set hostId, serial, mac or pairingKeyHash",
            )
        )
    for path, value in (("spec.serial", spec.serial), ("spec.hostId", spec.host_id)):
        if value and is_junk(value):
            problems.append(
                Problem(path=path, message=f"{value[:60]!r} is a filler that many machines share")
            )
    if spec.mac and _MAC.fullmatch(spec.mac) is None:
        problems.append(
            Problem(path="spec.mac", message="is not a MAC address", hint="like 02:00:5e:10:00:01")
        )
    if spec.pairing_key_hash and re.fullmatch(r"[0-9a-f]{64}", spec.pairing_key_hash) is None:
        problems.append(
            Problem(
                path="spec.pairingKeyHash",
                message="is not a SHA-256 in hex",
                hint="hash the key: printf %s KEY | sha256sum",
            )
        )
    once = {"install": install.install_line(centre)} if old is None and not problems else {}
    return Draft(msgspec.structs.replace(new, spec=spec), problems=tuple(problems), once=once)
