"""Revisions of profiles: immutable, named by digest, and how several become one stack.

A revision is stored and travels as canonical JSON; its digest is that of exactly those bytes.
Centre and host call the same `resolve`, the centre with what it knows (preview), the host with
its facts, so both see the same layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from skerry.lib.digest import canonical_json, sha256
from skerry.lib.errors import SkerryError
from skerry.model.artifact import ArtifactRef
from skerry.model.kinds import ClusterProfileSpec, Layer, LayerType, ProfileType, Variable
from skerry.model.meta import Record
from skerry.model.problems import DocumentInvalid, Problem
from skerry.model.template import expand, is_deferred, references, resolve_variables

MAX_REVISION_BYTES = 4 * 1024 * 1024
TEXTS = ("values", "manifests", "namespace", "version")


class RevisionInvalid(SkerryError):
    """Bytes are not a revision of a profile."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="RevisionInvalid", hint="apply the profile again")


class RevisionLayer(Record, frozen=True, kw_only=True):
    """A layer as written. `artifacts` are names; the revision pins them to digests."""

    name: str
    type: LayerType
    provider: str = ""
    version: str = ""
    values: str = ""
    manifests: str = ""
    chart: str = ""
    namespace: str = ""
    artifacts: tuple[str, ...] = ()
    wait_s: int = 300


class Revision(Record, frozen=True, kw_only=True):
    """One version of a profile, for ever.

    `artifacts` pins each name that a layer uses, once per architecture there was.
    """

    profile: str
    version: str
    type: ProfileType
    layers: tuple[RevisionLayer, ...] = ()
    variables: tuple[Variable, ...] = ()
    artifacts: tuple[ArtifactRef, ...] = ()

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self)

    @property
    def digest(self) -> str:
        return sha256(self.encode())


class ResolvedLayer(Record, frozen=True, kw_only=True):
    """A layer with its variables expanded. `profile` says where it came from, `artifacts` are
    names of references in the host's assignment."""

    name: str
    profile: str
    type: LayerType
    provider: str = ""
    version: str = ""
    values: str = ""
    manifests: str = ""
    chart: str = ""
    namespace: str = ""
    artifacts: tuple[str, ...] = ()
    wait_s: int = 300

    @property
    def digest(self) -> str:
        return sha256(canonical_json(self))


def new_revision(
    name: str, spec: ClusterProfileSpec, artifacts: Mapping[str, tuple[ArtifactRef, ...]]
) -> Revision:
    """The revision of a profile's spec; `artifacts` maps the names that its layers use."""

    def layer(item: Layer) -> RevisionLayer:
        return RevisionLayer(
            name=item.name,
            type=item.type,
            provider=item.provider,
            version=item.version,
            values=item.values,
            manifests=item.manifests,
            chart=item.chart,
            namespace=item.namespace,
            artifacts=item.artifacts,
            wait_s=item.wait_s,
        )

    used = {wanted for item in spec.layers for wanted in item.artifacts}
    pins = [
        msgspec.structs.replace(ref, name=wanted) for wanted in used for ref in artifacts[wanted]
    ]
    return Revision(
        profile=name,
        version=spec.version,
        type=spec.type,
        layers=tuple(layer(item) for item in spec.layers),
        variables=spec.variables,
        artifacts=tuple(sorted(pins, key=lambda ref: (ref.name, ref.architecture))),
    )


def decode_revision(data: bytes) -> Revision:
    """Raises RevisionInvalid."""
    if len(data) > MAX_REVISION_BYTES:
        raise RevisionInvalid(f"revision is {len(data)} bytes, at most {MAX_REVISION_BYTES}")
    try:
        return msgspec.json.decode(data, type=Revision)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RevisionInvalid(f"not a profile revision: {exc}") from exc


def resolve(
    revisions: Sequence[Revision],
    variables: Mapping[str, str],
    *,
    facts: Mapping[str, str] | None = None,
    keep: Callable[[str], bool] = is_deferred,
    examples: bool = False,
) -> tuple[ResolvedLayer, ...]:
    """The layers of a stack in the order in which they are applied.

    Layers of the one full or infra profile come first, those of the add-ons after it in the order
    given. `facts` holds what only a host knows (facts, opened secrets as `secret.NAME.KEY`); such
    names may be among `variables` too. `keep` decides which names without a value may stay (on the
    host: `template.never`). Raises DocumentInvalid with all problems.
    """
    known = {**(facts or {}), **{k: v for k, v in variables.items() if is_deferred(k)}}
    variables = {name: value for name, value in variables.items() if not is_deferred(name)}
    ordered = [item for item in revisions if item.type is not ProfileType.ADDON]
    ordered += [item for item in revisions if item.type is ProfileType.ADDON]
    problems = stack_problems(revisions)
    problems += _undeclared(revisions, variables)
    layers: list[ResolvedLayer] = []
    for revision in ordered:
        own = {item.name for item in revision.variables}
        given = {name: value for name, value in variables.items() if name in own}
        try:
            values = resolve_variables(revision.variables, given, examples=examples)
        except DocumentInvalid as exc:
            problems += exc.problems
            continue
        values = {name: expand(text, known, keep=_any) for name, text in values.items()}
        for index, layer in enumerate(revision.layers):
            try:
                layers.append(_expand_layer(revision, layer, {**values, **known}, keep))
            except DocumentInvalid as exc:
                problems += [
                    Problem(
                        path=f"profile {revision.profile} layers[{index}]{item.path}",
                        message=item.message,
                        hint=item.hint,
                    )
                    for item in exc.problems
                ]
    if problems:
        raise DocumentInvalid("stack", problems)
    return tuple(layers)


def stack_problems(revisions: Sequence[Revision]) -> list[Problem]:
    """What keeps these revisions from being one stack."""
    problems: list[Problem] = []
    bases = [item.profile for item in revisions if item.type is not ProfileType.ADDON]
    if len(bases) != 1:
        found = ", ".join(bases) or "none"
        problems.append(
            Problem(
                path="profiles",
                message=f"exactly one full or infra profile is needed, found {found}",
                hint="the full or infra profile brings Kubernetes and the network",
            )
        )
    owner: dict[str, str] = {}
    for revision in revisions:
        for layer in revision.layers:
            other = owner.setdefault(layer.name, revision.profile)
            if other != revision.profile:
                problems.append(
                    Problem(
                        path="profiles",
                        message=f"layer {layer.name!r} is in profile {other} and in"
                        f" {revision.profile}",
                        hint="rename the layer in one of them",
                    )
                )
    return problems


def secret_references(revisions: Sequence[Revision]) -> tuple[str, ...]:
    """Names NAME.KEY of the secrets that the layers use, sorted."""
    found: set[str] = set()
    for revision in revisions:
        texts = [getattr(layer, field) for layer in revision.layers for field in TEXTS]
        texts += [item.default or "" for item in revision.variables]
        for text in texts:
            found.update(
                name.removeprefix("secret.")
                for name in references(text)
                if name.startswith("secret.") and is_deferred(name)
            )
    return tuple(sorted(found))


def _undeclared(revisions: Sequence[Revision], given: Mapping[str, str]) -> list[Problem]:
    known = {item.name for revision in revisions for item in revision.variables}
    return [
        Problem(
            path=f"variables.{name}",
            message=f"no profile of this cluster has a variable {name!r}",
            hint=f"there are: {', '.join(sorted(known)) or 'none'}",
        )
        for name in given
        if name not in known
    ]


def _expand_layer(
    revision: Revision,
    layer: RevisionLayer,
    values: Mapping[str, str],
    keep: Callable[[str], bool],
) -> ResolvedLayer:
    texts: dict[str, str] = {}
    problems: list[Problem] = []
    for field in TEXTS:
        try:
            texts[field] = expand(getattr(layer, field), values, keep=keep)
        except DocumentInvalid as exc:
            problems += [
                Problem(path=f".{field}", message=item.message, hint=item.hint)
                for item in exc.problems
            ]
    if problems:
        raise DocumentInvalid(f"layer {layer.name}", problems)
    return ResolvedLayer(
        name=layer.name,
        profile=revision.profile,
        type=layer.type,
        provider=layer.provider,
        chart=layer.chart,
        artifacts=layer.artifacts,
        wait_s=layer.wait_s,
        **texts,
    )


def _any(name: str) -> bool:
    return True
