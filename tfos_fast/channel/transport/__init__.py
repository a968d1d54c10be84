"""The connection of a process to its broker."""
