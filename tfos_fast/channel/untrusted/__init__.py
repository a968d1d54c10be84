"""Pickled values that came over a network: read as data, never executed."""
