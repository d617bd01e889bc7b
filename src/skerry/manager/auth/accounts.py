"""People and programs that sign in: passwords, sessions, API keys, and the first password.

Passwords are hashed with argon2 in threads, at most two at a time, because each takes 64 MiB.
Session and API keys are random, so their SHA-256 is stored and nothing slow is needed.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta

import argon2
import msgspec
from anyio import CapacityLimiter, to_thread

from skerry.lib.errors import SkerryError
from skerry.lib.files import Root
from skerry.manager.auth.decide import BUILT_IN, Grant, Principal
from skerry.manager.store.protocol import Audit, NotFound, Put, Query, SetValue, Store, WriteSet
from skerry.model.kinds import EmptyStatus, ProjectSpec
from skerry.model.meta import DEFAULT_PROJECT, Metadata, Record, Resource
from skerry.model.people import RoleBindingSpec, RoleSpec, UserSpec, UserStatus

PASSWORDS = "password"
SESSIONS = "session"
API_KEYS = "apikey"
FIRST_PASSWORD = "/first-password"  # noqa: S105 - a place
FIRST_USER = "admin"
MIN_PASSWORD_CHARS = 10
MAX_PASSWORD_CHARS = 200
MAX_WAITING_SIGN_INS = 16
_KEY_PREFIX = "skerry_"

_hasher = argon2.PasswordHasher()
_limiter: CapacityLimiter | None = None


class SignInFailed(SkerryError):
    """Wrong name or password; which of them is not said."""

    exit_code = 4

    def __init__(self) -> None:
        super().__init__("wrong user name or password", reason="SignInFailed")


class TooManySignIns(SkerryError):
    """More people sign in at once than passwords can be checked."""

    exit_code = 4
    status = 429

    def __init__(self) -> None:
        super().__init__(
            "too many sign-ins at this moment",
            hint="try again in a few seconds",
            reason="TooManyRequests",
            retryable=True,
        )


class BadPassword(SkerryError):
    """A new password is not acceptable."""

    exit_code = 2


class Session(Record, frozen=True, kw_only=True):
    """A signed-in person or an API key. `subject` is user:NAME or serviceaccount:NAME."""

    subject: str
    created_at: datetime
    expires_at: datetime | None = None
    name: str = ""


async def hash_password(password: str) -> bytes:
    """Raises BadPassword."""
    if not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
        raise BadPassword(
            f"a password has {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters",
            reason="BadPassword",
        )
    hashed = await to_thread.run_sync(_hasher.hash, password, limiter=_two_at_once())
    return hashed.encode()


async def check_password(stored: bytes | None, password: str) -> bool:
    """Takes as long for a user who does not exist. Raises TooManySignIns."""
    # A flood from many addresses must not queue up: each would wait for minutes and hold memory.
    if _two_at_once().statistics().tasks_waiting >= MAX_WAITING_SIGN_INS:
        raise TooManySignIns
    expected = (stored or _ABSENT).decode()

    def verify() -> bool:
        try:
            return _hasher.verify(expected, password[:MAX_PASSWORD_CHARS])
        except argon2.exceptions.VerificationError:
            return False

    matches = await to_thread.run_sync(verify, limiter=_two_at_once())
    return matches and stored is not None


async def sign_in(
    store: Store, root: Root, user: str, password: str, *, now: datetime, hours: int, source: str
) -> tuple[str, Session]:
    """A new session and its key (shown to its owner only). Raises SignInFailed."""
    matches = await check_password(await store.value(PASSWORDS, user), password)
    found = None
    if matches:
        try:
            found = await store.get("User", "", user)
        except NotFound:
            matches = False
    if found is None or found.spec.disabled:
        await store.commit(
            WriteSet(audits=(_audit(now, f"user:{user[:63]}", "sign-in-failed", source),))
        )
        raise SignInFailed
    key = secrets.token_urlsafe(32)
    session = Session(
        subject=f"user:{user}", created_at=now, expires_at=now + timedelta(hours=hours)
    )
    await store.commit(
        WriteSet(
            values=(
                SetValue(SESSIONS, _hash(key), msgspec.json.encode(session), session.expires_at),
            ),
            audits=(_audit(now, session.subject, "sign-in", source),),
        )
    )
    if user == FIRST_USER:
        root.remove(FIRST_PASSWORD)
    return key, session


async def sign_out(store: Store, key: str, *, now: datetime) -> None:
    """End a session."""
    session = await _find(store, SESSIONS, key, now)
    if session is not None:
        await store.commit(
            WriteSet(
                values=(SetValue(SESSIONS, _hash(key), None),),
                audits=(_audit(now, session.subject, "sign-out", ""),),
            )
        )


async def new_api_key(
    store: Store, subject: str, *, actor: str, now: datetime, name: str = "", days: int = 365
) -> tuple[str, Session]:
    """A key for a program, shown once."""
    key = _KEY_PREFIX + secrets.token_urlsafe(32)
    session = Session(
        subject=subject, created_at=now, expires_at=now + timedelta(days=days), name=name
    )
    await store.commit(
        WriteSet(
            values=(
                SetValue(API_KEYS, _hash(key), msgspec.json.encode(session), session.expires_at),
            ),
            audits=(_audit(now, actor, "create-api-key", f"for {subject}"),),
        )
    )
    return key, session


async def find_principal(store: Store, key: str, *, now: datetime) -> Principal | None:
    """Who holds this key, with what they may do now; None when nobody does."""
    space = API_KEYS if key.startswith(_KEY_PREFIX) else SESSIONS
    session = await _find(store, space, key, now)
    if session is None:
        return None
    sort, _, name = session.subject.partition(":")
    try:
        owner = await store.get("User" if sort == "user" else "ServiceAccount", "", name)
    except NotFound:
        return None
    if owner.spec.disabled:
        return None
    return Principal(session.subject, await grants_of(store, session.subject))


async def grants_of(store: Store, subject: str) -> tuple[Grant, ...]:
    """What the role bindings give to a subject."""
    page = await store.list(Query("RoleBinding", "", fields={"spec.subjects": subject}))
    found: list[Grant] = []
    for binding in page.items:
        name = binding.spec.role
        rules = BUILT_IN.get(name)
        if rules is None:
            try:
                rules = (await store.get("Role", "", name)).spec.rules
            except NotFound:
                continue
        found.append(Grant(rules, binding.spec.project))
    return tuple(found)


async def set_password(
    store: Store, user: str, password: str, *, actor: str, now: datetime
) -> None:
    """Also ends the user's sessions. Raises NotFound, BadPassword."""
    await store.get("User", "", user)
    hashed = await hash_password(password)
    await store.commit(
        WriteSet(
            values=(
                SetValue(PASSWORDS, user, hashed),
                *await _keys_of(store, f"user:{user}", (SESSIONS,)),
            ),
            audits=(_audit(now, actor, "set-password", "", name=user),),
        )
    )


async def forget(store: Store, subject: str) -> tuple[SetValue, ...]:
    """What goes with a user or service account: password, sessions, API keys.

    Otherwise a later account of the same name would inherit them.
    """
    keys = await _keys_of(store, subject, (SESSIONS, API_KEYS))
    sort, _, name = subject.partition(":")
    return (SetValue(PASSWORDS, name, None), *keys) if sort == "user" else tuple(keys)


async def bootstrap(store: Store, root: Root, *, now: datetime) -> bool:
    """Make the default project, the built-in roles and the first user; whether anything was made.

    The first password is in a 0600 file until its owner signs in.
    """
    puts: list[Put] = []
    values: list[SetValue] = []

    async def missing(kind: str, name: str) -> bool:
        try:
            await store.get(kind, "", name)
        except NotFound:
            return True
        return False

    def put(kind: str, name: str, spec: object, status: object) -> None:
        metadata = Metadata(name=name, uid=str(secrets.token_hex(16)), generation=1, created_at=now)
        puts.append(Put(Resource(kind=kind, metadata=metadata, spec=spec, status=status), 0))

    if await missing("Project", DEFAULT_PROJECT):
        put("Project", DEFAULT_PROJECT, ProjectSpec(description="Default"), EmptyStatus())
    for name, rules in BUILT_IN.items():
        if await missing("Role", name):
            put("Role", name, RoleSpec(rules=rules), EmptyStatus())
    everybody = await store.list(Query("User", "", limit=1))
    if not everybody.total:
        password = secrets.token_urlsafe(18)
        put("User", FIRST_USER, UserSpec(display_name="First administrator"), UserStatus())
        binding = RoleBindingSpec(role="admin", subjects=(f"user:{FIRST_USER}",))
        if await missing("RoleBinding", FIRST_USER):
            put("RoleBinding", FIRST_USER, binding, EmptyStatus())
        values.append(SetValue(PASSWORDS, FIRST_USER, await hash_password(password)))
        # The file first: a password that nobody knows would lock everybody out.
        root.write(FIRST_PASSWORD, f"{password}\n".encode(), mode=0o600)
    if not puts:
        return False
    await store.commit(
        WriteSet(
            puts=tuple(puts),
            values=tuple(values),
            audits=(_audit(now, "system:manager", "bootstrap", ""),),
        )
    )
    return True


async def _find(store: Store, space: str, key: str, now: datetime) -> Session | None:
    data = await store.value(space, _hash(key))
    if data is None:
        return None
    session = msgspec.json.decode(data, type=Session)
    if session.expires_at is not None and session.expires_at <= now:
        return None
    return session


async def _keys_of(store: Store, subject: str, spaces: tuple[str, ...]) -> list[SetValue]:
    found: list[SetValue] = []
    for space in spaces:
        for key, data in (await store.values(space)).items():
            if msgspec.json.decode(data, type=Session).subject == subject:
                found.append(SetValue(space, key, None))
    return found


def _audit(now: datetime, actor: str, verb: str, source: str, *, name: str = "") -> Audit:
    sort, _, own = actor.partition(":")
    return Audit(
        at=now,
        actor=actor,
        verb=verb,
        object_kind="ServiceAccount" if sort == "serviceaccount" else "User",
        object_project="",
        object_name=name or own,
        source=source,
    )


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _two_at_once() -> CapacityLimiter:
    global _limiter
    if _limiter is None:
        _limiter = CapacityLimiter(2)
    return _limiter


_ABSENT = _hasher.hash(secrets.token_hex(16)).encode()
