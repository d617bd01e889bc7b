"""Where the kubeadm engine keeps things on the host."""

from __future__ import annotations

STATE = "/var/lib/skerry"
RUN = "/run/skerry"

RELEASES = f"{STATE}/releases/kubernetes"
LINKS = f"{STATE}/links"
CONTAINERD_ROOT = f"{STATE}/containerd"
ETCD = f"{STATE}/etcd"
SNAPSHOTS = f"{STATE}/snapshots"
LAYERS = f"{STATE}/layers"

KUBE = f"{STATE}/kube"
RECORD = f"{KUBE}/record.json"
BEFORE = f"{KUBE}/before.json"
KUBEADM_CONFIG = f"{KUBE}/kubeadm.yaml"
CONTAINERD_CONFIG = f"{KUBE}/containerd.toml"
CERTS_D = f"{KUBE}/certs.d"
PROXY_ENV = f"{KUBE}/proxy.env"
SYSCTL = f"{KUBE}/sysctl.conf"
FENCE = f"{KUBE}/fence.nft"

CONTAINERD_STATE = f"{RUN}/containerd"
CONTAINERD_SOCKET = f"{CONTAINERD_STATE}/containerd.sock"
RUNTIME_APPLIED = f"{RUN}/applied-runtime"
KUBECTL_CACHE = f"{RUN}/kubectl"
HELM = f"{RUN}/helm"
KUBELET_APPLIED = f"{RUN}/applied-kubelet"

UNITS = "/etc/systemd/system"
HOST_UNIT = "skerry-host.service"
FENCE_UNIT = "skerry-fence.service"
CONTAINERD_UNIT = "skerry-containerd.service"
KUBELET_UNIT = "skerry-kubelet.service"
# Counts for every scope whose name begins so (systemd.unit(5), drop-ins of truncated names).
POD_SCOPES = f"{UNITS}/cri-containerd-.scope.d"
ALL_UNITS = (KUBELET_UNIT, CONTAINERD_UNIT, FENCE_UNIT, HOST_UNIT)

KUBERNETES = "/etc/kubernetes"
MANIFESTS = f"{KUBERNETES}/manifests"
PKI = f"{KUBERNETES}/pki"
ADMIN_CONF = f"{KUBERNETES}/admin.conf"
SUPER_ADMIN_CONF = f"{KUBERNETES}/super-admin.conf"
KUBELET_CONF = f"{KUBERNETES}/kubelet.conf"
KUBELET = "/var/lib/kubelet"
KUBELET_CONFIG = f"{KUBELET}/config.yaml"
KUBELET_FLAGS = f"{KUBELET}/kubeadm-flags.env"
CNI_CONFIG_DIR = "/etc/cni/net.d"
CNI_CONFIG = f"{CNI_CONFIG_DIR}/10-skerry.conflist"
CNI_STATE = f"{RUN}/cni"

BRIDGE = "skerry0"
POD_BRIDGE = "cni0"
API_PORT = 6443
PORTS = (6443, 2379, 2380, 10250, 10257, 10259)
CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")

RUNTIME_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", "runc")
KUBELET_PROGRAMS = ("kubelet", "kubectl")
# Not in every release: those made before layers could be charts lack it.
OPTIONAL_PROGRAMS = ("helm",)


def release(version: str) -> str:
    """Folder of an unpacked release."""
    return f"{RELEASES}/{version}"


def program(version: str, name: str) -> str:
    """A program of a release by its absolute path."""
    return f"{RELEASES}/{version}/bin/{name}"


def manifest(component: str) -> str:
    """Static pod manifest of a component."""
    return f"{MANIFESTS}/{component}.yaml"
