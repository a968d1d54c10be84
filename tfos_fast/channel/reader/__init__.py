"""The side that takes rows out."""
