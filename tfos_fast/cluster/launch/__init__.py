"""How a node starts, in the task of its reservation and as a process."""
