"""Columns: which there are, how rows tell them, how two views become one."""
