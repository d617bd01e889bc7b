"""What travels between manager and host: messages, envelopes, message signatures.

Sans-IO: nothing here opens a connection, reads a clock or touches a disk. Messages are tolerant
(unknown optional fields pass), so that agent and manager work together one minor version apart.
"""
