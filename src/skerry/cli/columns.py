"""What a table shows of each kind. Status words are the phase and reason words of the objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from skerry.cli.ages import age, parse_time, size, until

Cell = Callable[[Mapping[str, Any], datetime], str]


@dataclass(frozen=True, slots=True)
class Column:
    """`wide` columns show with `-o wide` only; `state` cells are words with a colour."""

    title: str
    cell: Cell
    wide: bool = False
    state: bool = False


def at(path: str) -> Cell:
    """The text at a path like `spec.type`."""

    def cell(item: Mapping[str, Any], now: datetime) -> str:
        return text(dig(item, path))

    return cell


def dig(item: Any, path: str) -> Any:
    """The value at a path, None when there is none."""
    for part in path.split("."):
        item = item.get(part) if isinstance(item, Mapping) else None
    return item


def text(value: Any) -> str:
    """A value in a cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(text(item) for item in value)
    return clean(str(value))


def clean(value: str) -> str:
    """One line without control characters: hosts choose some of these texts, and a terminal
    obeys what it is sent."""
    if value.isprintable():
        return value
    return "".join(char if char.isprintable() else " " for char in value)


def columns_of(kind: str, *, wide: bool, projects: bool) -> list[Column]:
    """The table of a kind; `projects` adds the project."""
    own = _TABLES.get(kind, ())
    found = [Column("NAME", at("metadata.name"))]
    if projects:
        found.insert(0, Column("PROJECT", at("metadata.project")))
    found += [column for column in own if wide or not column.wide]
    found.append(Column("AGE", lambda item, now: age(dig(item, "metadata.createdAt"), now)))
    if wide:
        found.append(Column("LABELS", _labels))
    return found


def phase(item: Mapping[str, Any], now: datetime) -> str:
    """The object's phase, or that it is going."""
    if dig(item, "metadata.deletedAt"):
        return "Deleting"
    # Values that are the default are left out of documents; both phases begin as Pending.
    return text(dig(item, "status.phase")) or "Pending"


def reason(item: Mapping[str, Any], now: datetime) -> str:
    """The reason that comes first in the one table of reasons, "" when all is well."""
    import msgspec

    from skerry.model.meta import Condition
    from skerry.model.reasons import why

    raw = dig(item, "status.conditions") or []
    try:
        return why(msgspec.convert(raw, list[Condition]), {}).reason
    except msgspec.ValidationError:
        return ""


def _labels(item: Mapping[str, Any], now: datetime) -> str:
    labels = dig(item, "metadata.labels") or {}
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _seen(path: str) -> Cell:
    return lambda item, now: age(dig(item, path), now)


def _token_state(item: Mapping[str, Any], now: datetime) -> str:
    expires = parse_time(dig(item, "spec.expiresAt"))
    most = dig(item, "spec.maximumUses")
    if dig(item, "spec.revoked"):
        return "TokenRevoked"
    if expires is not None and expires <= now:
        return "TokenExpired"
    if isinstance(most, int) and (dig(item, "status.uses") or 0) >= most:
        return "TokenUsedUp"
    return "Ready"


def _token_uses(item: Mapping[str, Any], now: datetime) -> str:
    uses = dig(item, "status.uses") or 0
    most = dig(item, "spec.maximumUses")
    return f"{uses}/{most}" if most else str(uses)


def _claim_match(item: Mapping[str, Any], now: datetime) -> str:
    words = (("hostId", "id"), ("serial", "serial"), ("mac", "mac"))
    spec = dig(item, "spec") or {}
    found = [f"{word} {spec[field]}" for field, word in words if spec.get(field)]
    if spec.get("pairingKeyHash"):
        found.append("pairing key")
    return ", ".join(found)


def _os_image(item: Mapping[str, Any], now: datetime) -> str:
    """Version that runs, and the one that is wanted when it is another."""
    runs, wanted = text(dig(item, "status.os.version")), text(dig(item, "status.desiredOs"))
    trial = " (trial)" if dig(item, "status.os.onTrial") else ""
    if not dig(item, "status.os.slots"):
        runs = ""  # what the packages of a distribution make of it stands under OS
    return f"{runs or '-'} > {wanted}" if wanted not in ("", runs) else f"{runs}{trial}"


def _nodes(item: Mapping[str, Any], now: datetime) -> str:
    nodes = dig(item, "status.nodes") or []
    pools = dig(item, "spec.pools") or []
    wanted = sum(len(pool.get("hosts") or []) for pool in pools) or len(nodes)
    return f"{sum(1 for node in nodes if node.get('ready'))}/{wanted}"


def _used_profiles(item: Mapping[str, Any], now: datetime) -> str:
    uses = dig(item, "spec.profiles") or []
    return ",".join(f"{use.get('name')}@{use.get('version')}" for use in uses)


def _versions(item: Mapping[str, Any], now: datetime) -> str:
    return ",".join(ref.get("version", "") for ref in dig(item, "status.revisions") or [])


def _layers(item: Mapping[str, Any], now: datetime) -> str:
    return ",".join(layer.get("name", "") for layer in dig(item, "spec.layers") or [])


def _keys(item: Mapping[str, Any], now: datetime) -> str:
    return ",".join(sorted(dig(item, "spec.data") or dig(item, "status.keys") or []))


def _complete(item: Mapping[str, Any], now: datetime) -> str:
    return "Complete" if dig(item, "status.complete") else "ArtifactMissing"


def _rules(item: Mapping[str, Any], now: datetime) -> str:
    def one(rule: Mapping[str, Any]) -> str:
        return f"{'/'.join(rule.get('verbs', []))} {'/'.join(rule.get('kinds', []))}"

    found: Iterable[Mapping[str, Any]] = dig(item, "spec.rules") or []
    return "; ".join(one(rule) for rule in found)


def _enabled(item: Mapping[str, Any], now: datetime) -> str:
    return "Disabled" if dig(item, "spec.disabled") else "Enabled"


def _scope(item: Mapping[str, Any], now: datetime) -> str:
    return text(dig(item, "spec.project")) or "(system)"


def _approves(item: Mapping[str, Any], now: datetime) -> str:
    return text(bool(dig(item, "spec.autoApprove")))


def _type(item: Mapping[str, Any], now: datetime) -> str:
    return text(dig(item, "spec.type") or "full")


def _size(item: Mapping[str, Any], now: datetime) -> str:
    return size(dig(item, "spec.sizeBytes"))


_STATUS = Column("STATUS", phase, state=True)
_REASON = Column("REASON", reason, state=True)

_TABLES: dict[str, tuple[Column, ...]] = {
    "Project": (Column("DESCRIPTION", at("spec.description")),),
    "Site": (
        Column("ADDRESS", at("spec.address")),
        Column("TIME ZONE", at("spec.timeZone")),
    ),
    "RegistrationToken": (
        Column("STATUS", _token_state, state=True),
        Column("USES", _token_uses),
        Column("EXPIRES", lambda item, now: until(dig(item, "spec.expiresAt"), now)),
        Column("SITE", at("spec.site")),
        Column("APPROVES", _approves),
        Column("NETWORKS", at("spec.allowedNetworks"), wide=True),
    ),
    "HostClaim": (
        Column("EXPECTS", _claim_match),
        Column("HOST", at("spec.hostName")),
        Column("SITE", at("spec.site")),
        Column("CLAIMED BY", at("status.claimedBy")),
    ),
    "Host": (
        _STATUS,
        _REASON,
        Column("SITE", at("spec.site")),
        Column("CLUSTER", at("status.kubernetes.cluster")),
        Column("KUBERNETES", at("status.kubernetes.kubeletVersion")),
        Column("CONTACT", _seen("status.lastContact")),
        Column("ADDRESS", at("status.addresses"), wide=True),
        Column("ARCH", at("status.inventory.architecture"), wide=True),
        Column("OS", at("status.inventory.osName"), wide=True),
        Column("OS IMAGE", _os_image, wide=True),
        Column("AGENT", at("status.agentVersion"), wide=True),
        Column("CODE", at("status.registrationCode"), wide=True),
    ),
    "Secret": (Column("KEYS", _keys),),
    "ClusterProfile": (
        Column("VERSION", at("spec.version")),
        Column("TYPE", _type),
        Column("RECORDED", _versions),
        Column("LAYERS", _layers, wide=True),
        Column("DESCRIPTION", at("spec.description"), wide=True),
    ),
    "Cluster": (
        _STATUS,
        _REASON,
        Column("KUBERNETES", at("status.kubernetesVersion")),
        Column("NODES", _nodes),
        Column("PROFILES", _used_profiles),
    ),
    "Artifact": (
        Column("STATUS", _complete, state=True),
        Column("TYPE", at("spec.type")),
        Column("VERSION", at("spec.version")),
        Column("ARCH", at("spec.architecture")),
        Column("SIZE", _size),
        Column("DIGEST", at("spec.digest"), wide=True),
    ),
    "Lease": (
        Column("LIMIT", at("spec.limit")),
        Column("HOLDERS", at("status.holders")),
    ),
    "User": (
        Column("STATUS", _enabled, state=True),
        Column("DISPLAY NAME", at("spec.displayName")),
        Column("EMAIL", at("spec.email")),
        Column("LAST LOGIN", _seen("status.lastLoginAt")),
    ),
    "ServiceAccount": (
        Column("STATUS", _enabled, state=True),
        Column("DESCRIPTION", at("spec.description")),
    ),
    "Role": (Column("RULES", _rules, wide=True),),
    "RoleBinding": (
        Column("ROLE", at("spec.role")),
        Column("SUBJECTS", at("spec.subjects")),
        Column("SCOPE", _scope),
    ),
}
