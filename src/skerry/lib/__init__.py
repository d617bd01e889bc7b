"""Doors to the outside and small foundations. Knows no domain words.

Everything that touches the world (processes, files, time) enters through a
Protocol defined here, so that each has one real implementation and one fake.
"""
