"""How many tasks a Spark application runs at once, and where: facts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskSlots:
    """What a Spark application has now.

    Attributes
    ----------
    tasks : int
        Tasks that may run at once.
    executor_cores : tuple of int
        Cores of each executor; one entry, the driver's, on ``local[N]``.
    local : bool
        Driver and executor are one process.
    """

    tasks: int
    executor_cores: tuple[int, ...]
    local: bool
