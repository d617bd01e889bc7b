"""Kubernetes engines: what turns a planned step into a running cluster on this host."""
