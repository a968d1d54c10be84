"""The thread of the driver that all agents talk to."""
