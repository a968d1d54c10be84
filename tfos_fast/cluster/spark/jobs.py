"""Spark actions in background threads that can be cancelled."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from tfos_fast.cluster.spark.engine import Engine


class SparkJob:
    """One Spark action, run in a thread of its own under a job group of its own.

    Parameters
    ----------
    engine : Engine
    description : str
        For Spark's UI.
    action : callable
        Runs the action and returns its result.
    changed : threading.Condition
        Notified when the action is over.
    """

    def __init__(self, engine: Engine, description: str, action: Callable[[], Any], changed: threading.Condition) -> None:
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None
        self.group = f"tfos_fast-{secrets.token_hex(6)}"
        self._engine = engine
        self._description = description
        self._action = action
        self._changed = changed
        # Local properties (scheduler pool and others) of the calling thread hold in the job, too.
        self._thread = engine.thread(self._run, f"tfos-job-{description}")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._engine.begin(self.group, self._description)
            try:
                self.result = self._action()
            finally:
                self._engine.end(self.group)
        except Exception as error:  # noqa: BLE001  # whatever the action raises is for whoever waits
            self.error = error
        finally:
            with self._changed:
                self.done = True
                self._changed.notify_all()

    def partitions(self) -> int | None:
        """How many tasks feed, once the first of them runs: those of the last stage, whichever others its data needs."""
        return self._engine.partitions(self.group)

    def unlaunched(self) -> int:
        """How many of these tasks Spark has not launched yet, as far as it is known."""
        return self._engine.unlaunched(self.group)

    def cancel(self, wait: float = 1.0) -> None:
        """Cancel the job; its tasks' Python workers are killed by Spark."""
        deadline = time.monotonic() + wait
        while not self.done and time.monotonic() < deadline:
            # Again and again: a job that its thread has not yet submitted is not in the group.
            self._engine.cancel(self.group)
            self._thread.join(0.2)
