"""OpenAPI 3.1, made from the kinds; the checked-in copy is docs/reference/openapi.json."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from skerry import __version__
from skerry.model.changes import Difference
from skerry.model.kinds import KINDS, Kind, Scope
from skerry.model.meta import API_VERSION, Metadata
from skerry.model.problems import Problem
from skerry.model.reasons import Cause
from skerry.wire import messages

_REF = "#/components/schemas/{name}"
_JSON = "application/json"
_PROJECT = {"name": "project", "in": "path", "required": True, "schema": {"type": "string"}}
_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}


@functools.cache
def openapi() -> dict[str, Any]:
    """The document as JSON-like values."""
    paths: dict[str, Any] = {}
    for kind in KINDS.values():
        if kind.writable:
            _kind_paths(paths, kind)
    _other_paths(paths)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "skerry",
            "version": __version__,
            "description": "Management plane for Kubernetes at the edge.",
        },
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(),
            "responses": {
                "Problem": {
                    "description": "A failure, as RFC 9457 says",
                    "content": {"application/problem+json": {"schema": _ref("ProblemDetails")}},
                }
            },
        },
    }


def _schemas() -> dict[str, Any]:
    types: list[Any] = [Metadata, Problem, Difference, Cause, messages.Refusal]
    for kind in KINDS.values():
        types += [kind.spec, kind.status]
    _, found = msgspec.json.schema_components(types, ref_template=_REF)
    for kind in KINDS.values():
        if not kind.writable:
            continue
        found[kind.name] = {
            "title": kind.name,
            "type": "object",
            "required": ["metadata"],
            "properties": {
                "apiVersion": {"const": API_VERSION},
                "kind": {"const": kind.name},
                "metadata": _ref("Metadata"),
                "spec": _ref(kind.spec.__name__),
                "status": _ref(kind.status.__name__),
            },
        }
        found[f"{kind.name}List"] = {
            "title": f"{kind.name}List",
            "type": "object",
            "required": ["items", "revision"],
            "properties": {
                "items": {"type": "array", "items": _ref(kind.name)},
                "after": {"type": "string"},
                "revision": {"type": "integer"},
                "total": {"type": "integer"},
            },
        }
    found["ProblemDetails"] = {
        "title": "ProblemDetails",
        "type": "object",
        "required": ["type", "title", "status", "detail", "reason"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "instance": {"type": "string"},
            "reason": {"type": "string"},
            "hint": {"type": "string"},
            "problems": {"type": "array", "items": _ref("Problem")},
            "changes": {"type": "array", "items": _ref("Difference")},
            "waitSeconds": {"type": "integer"},
            "offset": {"type": "integer"},
        },
    }
    return dict(sorted(found.items()))


def _kind_paths(paths: dict[str, Any], kind: Kind) -> None:
    scoped = kind.scope is Scope.PROJECT
    base = f"/v1/projects/{{project}}/{kind.plural}" if scoped else f"/v1/{kind.plural}"
    place = [_PROJECT] if scoped else []
    listing = [
        _query("labelSelector"),
        _query("fieldSelector"),
        _query("search"),
        _query("limit", "integer"),
        _query("after"),
        _query("watch", "boolean"),
        _query("since", "integer"),
    ]
    if scoped:
        paths[f"/v1/{kind.plural}"] = {
            "get": _operation(f"listAll{kind.name}", kind, f"{kind.name}List", parameters=listing)
        }
    dry = _query("dryRun", "boolean")
    paths[base] = {
        "parameters": place,
        "get": _operation(f"list{kind.name}", kind, f"{kind.name}List", parameters=listing),
        "post": _operation(
            f"create{kind.name}", kind, kind.name, body=kind.name, status="201", parameters=[dry]
        ),
    }
    paths[f"{base}/{{name}}"] = {
        "parameters": [*place, _NAME],
        "get": _operation(f"get{kind.name}", kind, kind.name),
        "put": _operation(
            f"apply{kind.name}",
            kind,
            kind.name,
            body=kind.name,
            also=("201",),
            parameters=[dry, _query("revision", "integer")],
        ),
        "patch": _operation(
            f"patch{kind.name}", kind, kind.name, body={"type": "object"}, parameters=[dry]
        ),
        "delete": _operation(
            f"delete{kind.name}",
            kind,
            {"type": "object"},
            also=("202",),
            parameters=[_query("force", "boolean")],
        ),
    }


def _other_paths(paths: dict[str, Any]) -> None:
    anything = {"type": "object"}
    host = "/v1/projects/{project}/hosts/{name}"
    for action in ("approve", "deny", "revoke"):
        paths[f"{host}/{action}"] = {
            "parameters": [_PROJECT, _NAME],
            "post": _operation(f"{action}Host", KINDS["Host"], "Host"),
        }
    paths["/v1/projects/{project}/registrationtokens/{name}/revoke"] = {
        "parameters": [_PROJECT, _NAME],
        "post": _operation(
            "revokeRegistrationToken", KINDS["RegistrationToken"], "RegistrationToken"
        ),
    }
    paths["/v1/login"] = {
        "post": {**_operation("login", None, anything, body=anything), "security": []}
    }
    paths["/v1/logout"] = {"post": _operation("logout", None, anything)}
    paths["/v1/whoami"] = {"get": _operation("whoami", None, anything)}
    paths["/v1/info"] = {"get": {**_operation("info", None, anything), "security": []}}
    events = [_query(name) for name in ("kind", "name")]
    events += [_query(name, "integer") for name in ("limit", "after")]
    paths["/v1/events"] = {
        "get": _operation("listEvents", None, anything, parameters=[_query("project"), *events])
    }
    paths["/v1/projects/{project}/events"] = {
        "parameters": [_PROJECT],
        "get": _operation("listProjectEvents", None, anything, parameters=events),
    }
    paths["/v1/audit"] = {"get": _operation("listAudit", None, anything, parameters=events[2:])}
    lines: dict[str, Any] = {"application/jsonl": {}}
    head = _operation("listAuditHeads", None, anything)
    head["responses"]["200"] = {"description": "Signed heads, one per line", "content": lines}
    paths["/v1/audit/heads"] = {"get": head}
    paths["/v1/restore"] = {"get": _operation("viewRestore", None, anything)}
    paths["/v1/restore/confirm"] = {"post": _operation("confirmRestore", None, anything)}
    paths["/v1/why/host/{name}"] = {
        "parameters": [_NAME],
        "get": _operation("whyHost", None, "Cause", parameters=[_query("project")]),
    }
    paths["/v1/users/{name}/password"] = {
        "parameters": [_NAME],
        "put": _operation("setPassword", None, anything, body=anything),
    }
    paths["/v1/serviceaccounts/{name}/keys"] = {
        "parameters": [_NAME],
        "post": _operation("createApiKey", None, anything, status="201"),
    }
    digest = {"name": "digest", "in": "path", "required": True, "schema": {"type": "string"}}
    binary: dict[str, Any] = {"application/octet-stream": {}}
    put = _operation("putBlob", None, anything, status="201", also=("202",))
    put["requestBody"] = {"required": True, "content": binary}
    get = _operation("getBlob", None, anything)
    get["responses"]["200"] = {"description": "The content", "content": binary}
    paths["/v1/blobs/{digest}"] = {"parameters": [digest], "put": put, "get": get}
    refusal = {
        "description": "Signed refusal",
        "content": {_JSON: {"schema": _ref("Refusal")}},
    }
    for path, text in (
        (messages.ENROL_PATH, "A machine asks to become a host"),
        (messages.SYNC_PATH, "Heartbeat, status, acknowledgement, assignment"),
        (messages.RENEW_PATH, "A new host certificate"),
    ):
        paths[path] = {
            "post": {
                "operationId": path.rsplit("/", 1)[-1],
                "summary": text,
                "description": "Signed by the host key (RFC 9421).",
                "security": [],
                "responses": {"200": {"description": "Signed answer"}, "default": refusal},
            }
        }


def _operation(
    name: str,
    kind: Kind | None,
    answer: str | dict[str, Any],
    *,
    body: str | dict[str, Any] | None = None,
    status: str = "200",
    also: tuple[str, ...] = (),
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    schema = _ref(answer) if isinstance(answer, str) else answer
    good = {"description": "Done", "content": {_JSON: {"schema": schema}}}
    operation: dict[str, Any] = {
        "operationId": name,
        "responses": {
            status: good,
            **dict.fromkeys(also, good),
            "default": {"$ref": "#/components/responses/Problem"},
        },
    }
    if kind is not None:
        operation["tags"] = [kind.name]
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        wanted = _ref(body) if isinstance(body, str) else body
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": wanted}}}
    return operation


def _query(name: str, kind: str = "string") -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": {"type": kind}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=name)}


if __name__ == "__main__":
    import json
    import sys

    sys.stdout.write(json.dumps(openapi(), indent=2, sort_keys=True) + "\n")
