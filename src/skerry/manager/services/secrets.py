"""Secrets: write-only values, encrypted at rest with a key that is outside the database.

The object itself never holds a value: it has the names of the keys and a keyed digest, by which a
change is seen. Values travel to a host sealed to its key (see assignments).
"""

from __future__ import annotations

import hashlib
import hmac
import os

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from skerry.lib.errors import SkerryError
from skerry.manager.services.centre import Caller, Centre
from skerry.manager.services.draft import Draft, Ending
from skerry.manager.store.protocol import AnyResource, SetValue
from skerry.model.kinds import SecretStatus
from skerry.model.problems import Problem

SPACE = "secret"
_NONCE = 12
MAX_BYTES = 256 * 1024


class SecretUnreadable(SkerryError):
    """A stored secret cannot be decrypted: the key in the data folder is another one."""


def encrypt(key: bytes, plain: bytes, *, about: str) -> bytes:
    """`about` binds the ciphertext to its object, so that rows cannot be swapped."""
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plain, about.encode())


def decrypt(key: bytes, sealed: bytes, *, about: str) -> bytes:
    """Raises SecretUnreadable."""
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], about.encode())
    except InvalidTag as exc:
        raise SecretUnreadable(
            "a stored secret cannot be decrypted",
            hint="restore keys/secret.key of this manager, or apply the secret again",
        ) from exc


def keyed_digest(key: bytes, data: bytes) -> str:
    """A digest that tells equality and nothing else to those without the key."""
    return f"hmac-sha256:{hmac.new(key, data, hashlib.sha256).hexdigest()}"


async def read(centre: Centre, project: str, name: str) -> dict[str, str]:
    """The values. For sealing only. Raises NotFound, SecretUnreadable."""
    found = await centre.store.get("Secret", project, name)
    stored = await centre.store.value(SPACE, found.uid)
    if stored is None:
        return {}
    plain = decrypt(centre.keys.secret, stored, about=found.uid)
    return msgspec.json.decode(plain, type=dict[str, str])


async def prepare(
    centre: Centre, caller: Caller, old: AnyResource | None, new: AnyResource
) -> Draft:
    """Move the values out of the object. An empty value keeps what is stored."""
    given: dict[str, str] = new.spec.data
    if sum(len(k) + len(v) for k, v in given.items()) > MAX_BYTES:
        problem = Problem(path="spec.data", message=f"is larger than {MAX_BYTES} characters")
        return Draft(msgspec.structs.replace(new, spec=type(new.spec)()), problems=(problem,))
    before = await read(centre, old.project, old.name) if old else {}
    values = {key: value or before.get(key, "") for key, value in given.items()}
    empty = [key for key, value in values.items() if not value]
    plain = msgspec.json.encode(values, order="sorted")
    status = SecretStatus(
        keys=tuple(sorted(values)), digest=keyed_digest(centre.keys.secret, plain)
    )
    bare = msgspec.structs.replace(new, spec=type(new.spec)(), status=status)
    if empty:
        problems = [Problem(path=f"spec.data.{key}", message="has no value") for key in empty]
        return Draft(bare, problems=tuple(problems))
    if old is not None and old.status.digest == status.digest:
        return Draft(bare)
    sealed = encrypt(centre.keys.secret, plain, about=new.uid)
    return Draft(bare, values=(SetValue(SPACE, new.uid, sealed),))


async def ending(centre: Centre, caller: Caller, old: AnyResource) -> Ending:
    """The values go with the object."""
    return Ending(values=(SetValue(SPACE, old.uid, None),))
