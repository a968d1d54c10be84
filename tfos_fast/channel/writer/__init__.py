"""The side that puts rows in."""
