"""The one place that decides whether somebody may do something. Deny by default.

A grant is a role's rules at a scope: "" is the whole system, else one project. A grant at a
project never reaches a kind of system scope. Who may change who may do what needs everything at
system scope, so that nobody can give themselves more than they have.
"""

from __future__ import annotations

from dataclasses import dataclass

from skerry.model.kinds import KINDS, Scope
from skerry.model.people import RoleRule

READ = ("get", "list", "watch")
WRITE = ("create", "update", "delete", "approve", "deny", "revoke", "force")
_POWER_KINDS = ("User", "ServiceAccount", "Role", "RoleBinding")
_SENSITIVE_KINDS = ("AuditRecord", *_POWER_KINDS)
_OPEN_KINDS = tuple(name for name in KINDS if name not in _SENSITIVE_KINDS)
_OPERATED = (
    "Site",
    "RegistrationToken",
    "HostClaim",
    "Host",
    "Secret",
    "ClusterProfile",
    "Cluster",
    "Lease",
    "Artifact",
    "Blob",
)

BUILT_IN: dict[str, tuple[RoleRule, ...]] = {
    "viewer": (RoleRule(kinds=_OPEN_KINDS, verbs=READ),),
    "operator": (
        RoleRule(kinds=_OPEN_KINDS, verbs=READ),
        RoleRule(kinds=_OPERATED, verbs=(*READ, *WRITE)),
    ),
    "admin": (RoleRule(kinds=("*",), verbs=("*",)),),
    "auditor": (RoleRule(kinds=tuple(KINDS), verbs=READ),),
}


@dataclass(frozen=True, slots=True)
class Grant:
    """Rules at a scope; `project` "" is the whole system."""

    rules: tuple[RoleRule, ...]
    project: str = ""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: `user:NAME`, `serviceaccount:NAME` or `system:PART`."""

    name: str
    grants: tuple[Grant, ...] = ()


SYSTEM = Principal("system:manager", (Grant(BUILT_IN["admin"]),))


def allowed(principal: Principal, verb: str, kind: str, project: str) -> bool:
    """Whether the principal may do `verb` to objects of `kind` in `project` ("": all of it)."""
    if kind in _POWER_KINDS and verb not in READ:
        return any(
            not grant.project and any("*" in r.kinds and "*" in r.verbs for r in grant.rules)
            for grant in principal.grants
        )
    return any(_covers(grant, verb, kind, project) for grant in principal.grants)


def readable_projects(principal: Principal, verb: str, kind: str) -> tuple[str, ...] | None:
    """Projects in which the principal may do `verb`; None means all of them."""
    if allowed(principal, verb, kind, ""):
        return None
    names = {grant.project for grant in principal.grants if grant.project}
    return tuple(sorted(name for name in names if allowed(principal, verb, kind, name)))


def _covers(grant: Grant, verb: str, kind: str, project: str) -> bool:
    if grant.project:
        known = KINDS.get(kind)
        if known is None or known.scope is Scope.SYSTEM or grant.project != project:
            return False
    return any(
        (kind in rule.kinds or "*" in rule.kinds) and (verb in rule.verbs or "*" in rule.verbs)
        for rule in grant.rules
    )
