"""The manager's API for programs: contexts on disk and one typed client.

Objects travel as plain documents, because a client must not lose fields that a newer manager added;
answers of fixed form are structs.
"""
