"""Durable objects behind one protocol (`protocol.Store`): SQLite and PostgreSQL."""
