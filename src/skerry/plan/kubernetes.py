"""Values of the kubernetes layer: what people may set, checked as a whole, and what it means.

`check_values` returns every problem at once and refuses unknown keys by name; `read_values`
turns checked values into typed ones with all defaults filled in. What skerry itself decides
(addresses, paths, image names) cannot be set here and says so.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from skerry.model.meta import Record
from skerry.plan.kubernetes_fields import (
    KUBE_PROXY_FIELDS,
    KUBE_PROXY_OWN,
    KUBELET_FIELDS,
    KUBELET_OWN,
    KUBELET_SINCE,
)

ADDRESS = "10.254.254.1"
POD_CIDR = "10.244.0.0/16"
SERVICE_CIDR = "10.96.0.0/12"
DNS_DOMAIN = "cluster.local"

_GO_DURATION = re.compile(r"(\d+(\.\d+)?(ms|s|m|h))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_HOST = re.compile(r"(\*|[A-Za-z0-9]([A-Za-z0-9.-]{0,252})(:\d{1,5})?)")
_URL = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]+(:\d{1,5})?(/[A-Za-z0-9._~/-]*)?")


class Problem(Record, frozen=True, kw_only=True):
    """One thing that is wrong. `path` is dotted ("kubelet.maxPods")."""

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class RegistryHost:
    """How to talk to one registry or mirror, by host and port."""

    ca: str = ""
    username: str = ""
    password: str = ""
    skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class KubernetesValues:
    """The values with defaults. Durations in seconds."""

    cluster: dict[str, Any] = field(default_factory=dict)
    kubelet: dict[str, Any] = field(default_factory=dict)
    kube_proxy: dict[str, Any] = field(default_factory=dict)
    ignore_preflight: tuple[str, ...] = ()
    restrict_oom_score_adj: bool = False
    max_concurrent_downloads: int = 3
    mirrors: dict[str, tuple[str, ...]] = field(default_factory=dict)
    registry_hosts: dict[str, RegistryHost] = field(default_factory=dict)
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: tuple[str, ...] = ()
    pod_cidr: str = POD_CIDR
    service_cidr: str = SERVICE_CIDR
    address: str = ADDRESS
    gate_limit_s: float = 240.0
    settle_s: float = 5.0
    snapshot_every_s: float = 6 * 3600.0
    snapshot_keep: int = 5

    @property
    def dns_address(self) -> str:
        """The tenth address of the service range, as kubeadm gives to the cluster's DNS."""
        return str(ipaddress.ip_network(self.service_cidr)[10])

    @property
    def node_pod_cidr(self) -> str:
        """The range of the only node: the first /24 (IPv6: /64), or all when it is smaller."""
        network = ipaddress.ip_network(self.pod_cidr)
        wanted = 24 if network.version == 4 else 64
        if network.prefixlen >= wanted:
            return str(network)
        return str(next(iter(network.subnets(new_prefix=wanted))))


def check_values(values: Mapping[str, Any], *, version: str = "") -> list[Problem]:
    """Every problem of a kubernetes layer's values, in the order of the document.

    With `version`, fields that this version of Kubernetes does not know yet are problems too.
    """
    found: list[Problem] = []
    _mapping(_TOP)("", values, found)
    if not found:
        _check_ranges(values, found)
    minor = int(version.split(".")[1]) if version.count(".") >= 2 else 0
    kubelet = values.get("kubelet")
    for name, since in KUBELET_SINCE.items():
        if minor and isinstance(kubelet, Mapping) and name in kubelet and minor < since:
            found.append(
                Problem(
                    path=f"kubelet.{name}",
                    message=f"Kubernetes {version} does not know it, 1.{since} is the first",
                )
            )
    return found


def read_values(values: Mapping[str, Any]) -> KubernetesValues:
    """Typed values. The input must have passed `check_values`."""
    default = KubernetesValues()
    containerd, registries = _part(values, "containerd"), _part(values, "registries")
    proxy, network = _part(values, "proxy"), _part(values, "network")
    upgrade, etcd = _part(values, "upgrade"), _part(values, "etcd")
    return KubernetesValues(
        cluster=_plain_config(_part(_part(values, "cluster"), "config")),
        kubelet=dict(_part(values, "kubelet")),
        kube_proxy=dict(_part(values, "kubeProxy")),
        ignore_preflight=tuple(_part(values, "kubeadm").get("ignorePreflightErrors", ())),
        restrict_oom_score_adj=containerd.get("restrictOomScoreAdj", False),
        max_concurrent_downloads=containerd.get("maxConcurrentDownloads", 3),
        mirrors={name: tuple(urls) for name, urls in sorted(_part(registries, "mirrors").items())},
        registry_hosts={
            name: RegistryHost(
                ca=host.get("ca", ""),
                username=host.get("username", ""),
                password=host.get("password", ""),
                skip_verify=host.get("insecureSkipVerify", False),
            )
            for name, host in sorted(_part(registries, "hosts").items())
        },
        http_proxy=proxy.get("http", ""),
        https_proxy=proxy.get("https", ""),
        no_proxy=tuple(proxy.get("noProxy", ())),
        pod_cidr=network.get("podCIDR", default.pod_cidr),
        service_cidr=network.get("serviceCIDR", default.service_cidr),
        address=network.get("address", default.address),
        gate_limit_s=seconds(upgrade.get("gateLimit", default.gate_limit_s)),
        settle_s=seconds(upgrade.get("settle", default.settle_s)),
        snapshot_every_s=seconds(etcd.get("snapshotEvery", default.snapshot_every_s)),
        snapshot_keep=etcd.get("keep", default.snapshot_keep),
    )


def seconds(value: str | float) -> float:
    """Seconds of "90s", "1h30m" or a plain number. The text must have the right form."""
    if isinstance(value, (int, float)):
        return float(value)
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(value))


def no_proxy_list(values: KubernetesValues) -> tuple[str, ...]:
    """What must never go through a proxy: the person's list plus the cluster's own."""
    own = (
        "localhost",
        "127.0.0.0/8",
        "::1",
        values.address,
        values.pod_cidr,
        values.service_cidr,
        ".svc",
        f".{DNS_DOMAIN}",
    )
    return tuple(dict.fromkeys((*values.no_proxy, *own)))


def _part(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, Mapping) else {}


def _plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with every `extraArgs` in kubeadm's list form, sorted by name."""
    plain: dict[str, Any] = {}
    for name, value in config.items():
        if name == "extraArgs" and isinstance(value, Mapping):
            plain[name] = [
                {"name": arg, "value": _text(setting)} for arg, setting in sorted(value.items())
            ]
        elif isinstance(value, Mapping):
            plain[name] = _plain_config(value)
        else:
            plain[name] = value
    return plain


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# -- checkers: each appends what is wrong at `path` ---------------------------------------------

_Check = Callable[[str, Any, list[Problem]], None]


def _say(found: list[Problem], path: str, message: str) -> None:
    found.append(Problem(path=path or ".", message=message))


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _mapping(known: Mapping[str, _Check], *, own: frozenset[str] = frozenset()) -> _Check:
    def check(path: str, value: Any, found: list[Problem]) -> None:
        if value is None:
            return
        if not isinstance(value, Mapping):
            _say(found, path, f"must be a mapping, found {_kind(value)}")
            return
        for key, item in value.items():
            place = _join(path, key)
            if key in own:
                _say(found, place, "is set by skerry and cannot be changed here")
            elif key not in known:
                _say(found, place, f"unknown key {key!r}{_nearest(str(key), known)}")
            else:
                known[key](place, item, found)

    return check


def _each(name: re.Pattern[str], what: str, inner: _Check) -> _Check:
    """A mapping whose keys are names given by people."""

    def check(path: str, value: Any, found: list[Problem]) -> None:
        if not isinstance(value, Mapping):
            _say(found, path, f"must be a mapping, found {_kind(value)}")
            return
        for key, item in value.items():
            if not isinstance(key, str) or not name.fullmatch(key):
                _say(found, _join(path, key), f"{key!r} is not {what}")
            else:
                inner(_join(path, key), item, found)

    return check


def _list(inner: _Check) -> _Check:
    def check(path: str, value: Any, found: list[Problem]) -> None:
        if not isinstance(value, list):
            _say(found, path, f"must be a list, found {_kind(value)}")
            return
        for index, item in enumerate(value):
            inner(f"{path}[{index}]", item, found)

    return check


def _typed(kind: type, what: str) -> _Check:
    def check(path: str, value: Any, found: list[Problem]) -> None:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            _say(found, path, f"must be {what}, found {_kind(value)}")

    return check


def _whole(least: int, most: int) -> _Check:
    def check(path: str, value: Any, found: list[Problem]) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            _say(found, path, f"must be a whole number from {least} to {most}, found {value!r}")

    return check


def _matching(pattern: re.Pattern[str], what: str) -> _Check:
    def check(path: str, value: Any, found: list[Problem]) -> None:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            _say(found, path, f"must be {what}, found {str(value)[:80]!r}")

    return check


def _duration(*, least_s: float, most_s: float = math.inf) -> _Check:
    def check(path: str, value: Any, found: list[Problem]) -> None:
        if not isinstance(value, str) or not _GO_DURATION.fullmatch(value):
            _say(found, path, f"must be a duration such as 90s or 6h, found {str(value)[:80]!r}")
        elif not least_s <= seconds(value) <= most_s:
            most = "" if math.isinf(most_s) else f" and at most {most_s:g} s"
            _say(found, path, f"must be at least {least_s:g} s{most}, found {value}")

    return check


def _network(path: str, value: Any, found: list[Problem]) -> None:
    try:
        ipaddress.ip_network(value)
    except (ValueError, TypeError):
        _say(found, path, f"must be a network such as 10.244.0.0/16, found {str(value)[:80]!r}")


def _address(path: str, value: Any, found: list[Problem]) -> None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        _say(found, path, f"must be an IP address, found {str(value)[:80]!r}")


def _anything(path: str, value: Any, found: list[Problem]) -> None:
    return


def _scalar(path: str, value: Any, found: list[Problem]) -> None:
    if not isinstance(value, (str, int, float, bool)):
        _say(found, path, f"must be text, a number or a boolean, found {_kind(value)}")


def _extra_args(path: str, value: Any, found: list[Problem]) -> None:
    """A mapping of flags, or kubeadm's own list of {name, value}."""
    if isinstance(value, list):
        _list(_mapping({"name": _string, "value": _string}))(path, value, found)
    else:
        _each(re.compile(r"[a-z0-9][a-z0-9.-]*"), "a flag without dashes", _scalar)(
            path, value, found
        )


def _check_ranges(values: Mapping[str, Any], found: list[Problem]) -> None:
    typed = read_values(values)
    pods, services = (
        ipaddress.ip_network(typed.pod_cidr),
        ipaddress.ip_network(typed.service_cidr),
    )
    address = ipaddress.ip_address(typed.address)
    if pods.version == services.version and pods.overlaps(services):
        _say(found, "network.podCIDR", f"{pods} overlaps with the services' {services}")
    for path, network in (("network.podCIDR", pods), ("network.serviceCIDR", services)):
        if address in network:
            _say(found, "network.address", f"{address} lies in {path} {network}")
        if network.num_addresses < 32:
            _say(found, path, f"{network} is too small, 32 addresses are the least")


def _kind(value: Any) -> str:
    names = {
        dict: "a mapping",
        list: "a list",
        str: "text",
        bool: "a boolean",
        type(None): "nothing",
    }
    return names.get(type(value), "a number")


def _nearest(key: str, known: Mapping[str, _Check]) -> str:
    same = [name for name in known if name.lower() == key.lower()]
    if same:
        return f", did you mean {same[0]!r}?"
    return f", known are {', '.join(sorted(known))}" if len(known) <= 12 else ""


_string = _typed(str, "text")
_boolean = _typed(bool, "true or false")
_volumes = _list(
    _mapping(
        {
            "name": _string,
            "hostPath": _string,
            "mountPath": _string,
            "readOnly": _boolean,
            "pathType": _string,
        }
    )
)
_envs = _list(_mapping({"name": _string, "value": _string}))
_component: dict[str, _Check] = {
    "extraArgs": _extra_args,
    "extraVolumes": _volumes,
    "extraEnvs": _envs,
}
_url = _matching(_URL, "a URL such as https://mirror.example:5000")
_proxy_url = _typed(str, "a URL such as http://proxy.example:3128")
_registry = "a registry's host and port"

_TOP: dict[str, _Check] = {
    "cluster": _mapping(
        {
            "config": _mapping(
                {
                    "apiServer": _mapping({**_component, "certSANs": _list(_string)}),
                    "controllerManager": _mapping(_component),
                    "scheduler": _mapping(_component),
                    "etcd": _mapping(
                        {
                            "local": _mapping(
                                {
                                    "extraArgs": _extra_args,
                                    "extraEnvs": _envs,
                                    "serverCertSANs": _list(_string),
                                    "peerCertSANs": _list(_string),
                                },
                                own=frozenset({"dataDir", "imageRepository", "imageTag"}),
                            )
                        },
                        own=frozenset({"external"}),
                    ),
                    "featureGates": _each(re.compile(r"[A-Za-z0-9]+"), "a feature gate", _boolean),
                    "encryptionAlgorithm": _matching(
                        re.compile(r"RSA-(2048|3072|4096)|ECDSA-P(256|384)"),
                        "RSA-2048, RSA-3072, RSA-4096, ECDSA-P256 or ECDSA-P384",
                    ),
                    "certificateValidityPeriod": _duration(least_s=120),
                    "caCertificateValidityPeriod": _duration(least_s=600),
                },
                own=frozenset(
                    {
                        "apiVersion",
                        "kind",
                        "kubernetesVersion",
                        "controlPlaneEndpoint",
                        "networking",
                        "certificatesDir",
                        "imageRepository",
                        "clusterName",
                        "dns",
                        "proxy",
                    }
                ),
            )
        }
    ),
    "kubelet": _mapping(
        dict.fromkeys(KUBELET_FIELDS | KUBELET_SINCE.keys(), _anything),
        own=KUBELET_OWN | {"apiVersion", "kind"},
    ),
    "kubeProxy": _mapping(
        dict.fromkeys(KUBE_PROXY_FIELDS, _anything),
        own=KUBE_PROXY_OWN | {"apiVersion", "kind"},
    ),
    "kubeadm": _mapping({"ignorePreflightErrors": _list(_string)}),
    "containerd": _mapping(
        {"restrictOomScoreAdj": _boolean, "maxConcurrentDownloads": _whole(1, 20)}
    ),
    "registries": _mapping(
        {
            "mirrors": _each(_HOST, _registry, _list(_url)),
            "hosts": _each(
                _HOST,
                _registry,
                _mapping(
                    {
                        "ca": _string,
                        "username": _string,
                        "password": _string,
                        "insecureSkipVerify": _boolean,
                    }
                ),
            ),
        }
    ),
    "proxy": _mapping({"http": _proxy_url, "https": _proxy_url, "noProxy": _list(_string)}),
    "network": _mapping({"podCIDR": _network, "serviceCIDR": _network, "address": _address}),
    "upgrade": _mapping(
        {
            "gateLimit": _duration(least_s=5, most_s=3600),
            "settle": _duration(least_s=0, most_s=600),
        }
    ),
    "etcd": _mapping({"snapshotEvery": _duration(least_s=60), "keep": _whole(1, 100)}),
}
