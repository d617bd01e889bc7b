"""Objects as people may see them: without secrets, with what lives in memory or in counters."""

from __future__ import annotations

from typing import Any

import msgspec

from skerry.manager.services.centre import Centre
from skerry.manager.store.protocol import AnyResource
from skerry.model.kinds import HostStatus, RegistrationTokenStatus


def token_counter(uid: str) -> str:
    """Name of the counter of a registration token's uses."""
    return f"token/{uid}"


async def shown(centre: Centre, resource: AnyResource) -> AnyResource:
    """The object without secrets and with live facts."""
    match resource.kind:
        case "RegistrationToken":
            status: RegistrationTokenStatus = resource.status
            uses = await centre.store.counter(token_counter(resource.uid))
            status = msgspec.structs.replace(status, secret_hash="", uses=uses)
            return msgspec.structs.replace(resource, status=status)
        case "HostClaim":
            hidden = "(set)" if resource.spec.pairing_key_hash else ""
            spec = msgspec.structs.replace(resource.spec, pairing_key_hash=hidden)
            return msgspec.structs.replace(resource, spec=spec)
        case "Secret":
            spec = msgspec.structs.replace(
                resource.spec, data=dict.fromkeys(resource.status.keys, "")
            )
            return msgspec.structs.replace(resource, spec=spec)
        case "Host":
            live = centre.live.contacts.get(resource.uid)
            known: HostStatus = resource.status
            if live is not None and (known.last_contact is None or live > known.last_contact):
                known = msgspec.structs.replace(known, last_contact=live)
            return msgspec.structs.replace(resource, status=known)
        case _:
            return resource


def document(resource: AnyResource) -> dict[str, Any]:
    """What people write of an object, for comparing; secrets appear as keys only."""
    plain: dict[str, Any] = msgspec.to_builtins(resource)
    spec = plain["spec"]
    if resource.kind == "Secret":
        # Digests tell that a value changed without telling the value.
        spec = {"keys": sorted(resource.status.keys), "digest": resource.status.digest}
    if resource.kind == "HostClaim" and spec.get("pairingKeyHash"):
        spec = {**spec, "pairingKeyHash": "(set)"}
    return {
        "labels": plain["metadata"]["labels"],
        "annotations": plain["metadata"]["annotations"],
        "spec": spec,
    }
