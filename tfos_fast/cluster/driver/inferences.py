"""Inferences in the driver: one that an error ends which no further try mends is cancelled, with the error as the reason.

Its job belongs to an action of the user's. Without this Spark would try its tasks again, and log each try with a hundred lines.
"""

from __future__ import annotations

import threading

from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.failures import root_first
from tfos_fast.cluster.protocol.task_news import stage_of
from tfos_fast.cluster.spark.engine import Engine

MOST = 2000  # characters of a reason: Spark logs it for each task that it stops


class Inferences:
    """A thread that cancels the jobs of failed inferences.

    Parameters
    ----------
    coordinator : Coordinator
    engine : Engine
    """

    def __init__(self, coordinator: Coordinator, engine: Engine) -> None:
        self._coordinator = coordinator
        self._engine = engine
        self._failed: set[int] = set()  # stages that were cancelled since a node failed
        self._stopped = False
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """An inference may be evaluated from now on."""
        if self._thread is None and self._engine.rdds:
            self._thread = threading.Thread(target=self._run, name="tfos-inferences", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        with self._coordinator.changed:
            self._stopped = True
            self._coordinator.changed.notify_all()
        if self._thread is not None:
            self._thread.join(10)

    def _run(self) -> None:
        changed = self._coordinator.changed
        while True:
            with changed:
                while not self._stopped and not (found := self._found()):
                    changed.wait(5.0)
                if self._stopped:
                    return
            for stage, (kind, text) in found.items():
                self._engine.cancel_stage(stage, f"because of tfos_fast.errors.{kind}: {m.clip(text, MOST)}")

    def _found(self) -> dict[int, tuple[str, str]]:
        """Stages that are to be cancelled, with an error's class and text. Under the lock."""
        unfit = self._coordinator.unfit
        keys = [key for key in unfit if stage_of(key) is not None]
        found = {stage: unfit.pop(key) for key in keys if (stage := stage_of(key)) is not None}
        failures = root_first(self._coordinator.failures)
        if failures:
            stages = [stage for stage in self._coordinator.inferring if stage not in self._failed]
            self._failed.update(stages)
            found |= {stage: (failures[0].kind, failures[0].summary) for stage in stages}
        return found
