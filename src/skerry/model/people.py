"""Who may do what: people, service accounts, roles and their bindings."""

from __future__ import annotations

from datetime import datetime

from skerry.model.meta import Condition, Document, Name, Record


class UserSpec(Document, frozen=True, kw_only=True):
    display_name: str = ""
    email: str = ""
    disabled: bool = False


class UserStatus(Record, frozen=True, kw_only=True):
    last_login_at: datetime | None = None
    conditions: tuple[Condition, ...] = ()


class ServiceAccountSpec(Document, frozen=True, kw_only=True):
    description: str = ""
    disabled: bool = False


class RoleRule(Document, frozen=True, kw_only=True):
    """`kinds` and `verbs` may hold "*"."""

    kinds: tuple[str, ...]
    verbs: tuple[str, ...]


class RoleSpec(Document, frozen=True, kw_only=True):
    rules: tuple[RoleRule, ...] = ()


class RoleBindingSpec(Document, frozen=True, kw_only=True):
    """`project` "" binds at system scope. Subjects are `user:NAME` or `serviceaccount:NAME`."""

    role: Name
    subjects: tuple[str, ...]
    project: str = ""
