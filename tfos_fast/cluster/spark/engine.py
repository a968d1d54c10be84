"""The seam to Spark: what the driver asks of it, whichever way it reaches it.

Two implementations: `tfos_fast.cluster.spark.context_engine` has a SparkContext, `tfos_fast.cluster.spark.connect_engine` a Spark
Connect session, which has neither RDDs nor the scheduler's books. Everything else in the driver speaks to this interface alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from tfos_fast.cluster.spark.task_slots import TaskSlots

Task = Callable[[int, Iterable[Any]], Iterator[Any]]  # number of a partition and its items -> results; runs on an executor


class Engine(Protocol):
    """One Spark application as this package uses it.

    Attributes
    ----------
    rdds : bool
        It has RDDs and broadcast variables, and the order in which a job's tasks are launched can be chosen.
    """

    rdds: bool

    @property
    def key(self) -> Any:
        """The SparkContext or session: what is remembered of an application is kept with it."""

    def check(self) -> None:
        """Refuse an application that has ended.

        Raises
        ------
        ClusterError
        """

    @property
    def master(self) -> str:
        """Its master, such as ``spark://host:7077``."""

    @property
    def local(self) -> bool:
        """Spark's driver and executor are one process (``local[N]``)."""

    def settings(self) -> dict[str, str]:
        """Spark's settings."""

    def front(self) -> tuple[str, str]:
        """Addresses for the coordinator in this process: to bind to, and at which executors should reach it."""

    # ---- where tasks can go --------------------------------------------------------------------------------------------------

    def slots(self, timeout: float) -> TaskSlots:
        """Count the slots, in ``timeout`` seconds at most."""

    def recount(self, known: TaskSlots) -> TaskSlots:
        """The slots as far as it costs nothing to look again."""

    def loads(self) -> dict[str, int]:
        """The executors by their ids, and how many tasks run on each; 1 where nobody knows."""

    def parallelism(self) -> int:
        """How many tasks Spark runs at a time, about."""

    def profile(self, cpus: int, gpus: int) -> Any | None:
        """A resource profile whose tasks take so many cores and GPUs each; None where Spark has no such thing."""

    # ---- jobs ----------------------------------------------------------------------------------------------------------------

    def run(
        self,
        task: Task,
        items: Sequence[Any],
        *,
        numbers: Sequence[int] | None = None,
        barrier: bool = False,
        profile: Any = None,
        broadcasts: Sequence[Any] = (),
    ) -> list[Any]:
        """Run ``task(number, [item])`` for each item, one in a partition; the results of all.

        Parameters
        ----------
        task : callable
        items : sequence
        numbers : sequence of int, optional
            Only these items' tasks, launched in this order.
        barrier : bool
            All tasks at once.
        profile : object, optional
            See :meth:`profile`.
        broadcasts : sequence
            Broadcast variables that go along.
        """

    def collect(self, tasks: Any, numbers: Callable[[int], list[int]] | None = None) -> list[Any]:
        """Compute an RDD or DataFrame; its rows. ``numbers``: of how many partitions -> those to compute, in this order (only with
        ``rdds``)."""

    def thread(self, target: Callable[[], None], name: str) -> threading.Thread:
        """A daemon thread that takes over what this thread has set for its jobs (scheduler pool, tags)."""

    def begin(self, group: str, description: str) -> None:
        """The jobs that this thread starts from now on belong to this group."""

    def end(self, group: str) -> None:
        """They no longer do."""

    def cancel(self, group: str) -> None:
        """Cancel the jobs of a group."""

    def cancel_stage(self, stage: int, reason: str) -> None:
        """Cancel the jobs that a stage belongs to, where it can be told which they are."""

    def partitions(self, group: str) -> int | None:
        """How many tasks the last stage of a group's job has; None while that is unknown."""

    def unlaunched(self, group: str) -> int:
        """How many of these Spark has not launched yet; 0 where that is unknown."""

    # ---- what goes along -----------------------------------------------------------------------------------------------------

    def pickle(self, value: Any) -> tuple[bytes, list[Any]]:
        """A value pickled, and the broadcast variables in it."""

    def small_batches(self, frame: Any) -> Any:
        """The same DataFrame with Arrow batches of a size that stays in the processor's caches."""

    def parse(self, schema: str) -> Any:
        """The type that a text such as ``"x int, y string"`` stands for."""

    def send_package(self, build: Callable[[Path, Iterable[str]], Path], along: Iterable[str]) -> Path:
        """Send the archive that ``build(path, modules along)`` writes to all executors; it is unpacked on their module path."""
