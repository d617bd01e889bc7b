"""What must be installed on the building machine. `./dev` and the documents read it from here."""

from __future__ import annotations

# Debian package names, with the reason each is needed.
PACKAGES = {
    "gcc": "runc contains C code",
    "libc6-dev": "runc is linked statically against the C library",
    "libseccomp-dev": "runc filters system calls",
    "pkg-config": "finds libseccomp",
    "mmdebstrap": "makes the lower layer of the kube-proxy image, and the trees of OS images",
    "qemu-utils": "converts an OS image's disk to qcow2",
    "debian-archive-keyring": "checks Debian's signatures",
    "busybox-static": "is the example web application",
    "binutils": "strips the agent's archive",
    "python3-venv": "makes the agent's own interpreter environment",
    "libpython3-dev": "brings the shared interpreter library that the agent's archive carries",
}

# The lowest Go that can build every release in kubernetes.yaml (Kubernetes 1.36 says `go 1.26.0`).
GO_MINIMUM = (1, 26)
