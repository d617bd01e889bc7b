"""Loops that bring the centre's own objects up to date with what hosts acknowledged."""
