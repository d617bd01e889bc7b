"""skerry: a self-hosted management plane for Kubernetes at the edge."""

__version__ = "0.1.0"
