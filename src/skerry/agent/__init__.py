"""The host agent: enrols, syncs, plans, and carries plans out through a durable journal.

Stays small: no web framework, database or terminal library is imported here (contract in CI).
"""
