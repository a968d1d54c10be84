"""The node agent: the process on an executor that looks after a trainer."""
