"""The process that runs the program's ``main``."""
