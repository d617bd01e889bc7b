"""Engines of the operating system: one way of updating it per kind of host."""
