"""Spark through a SparkContext: RDDs, job groups, the scheduler's own books."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import tfos_fast
from tfos_fast.cluster.spark.dataframe import in_small_batches, is_frame
from tfos_fast.cluster.spark.engine import Task
from tfos_fast.cluster.spark.task_slots import TaskSlots
from tfos_fast.errors import ClusterError

_SHIPPED = "TFOS_FAST_SHIPPED"


def check_context(sc: Any, then: str) -> None:
    """Refuse a SparkContext that was stopped, or whose JVM is gone.

    Parameters
    ----------
    sc : SparkContext
    then : str
        What to do about it.

    Raises
    ------
    ClusterError
    """
    from py4j.protocol import Py4JError

    try:
        stopped = sc._jsc is None or sc._jsc.sc().isStopped()
    except (Py4JError, OSError) as error:
        raise ClusterError(f"the JVM of the SparkContext does not answer ({type(error).__name__}): {then}") from error
    if stopped:
        raise ClusterError(f"the SparkContext was stopped: {then}")


class Classic:
    """An `Engine` (see there for what each method does).

    Parameters
    ----------
    sc : SparkContext
    """

    rdds = True

    def __init__(self, sc: Any) -> None:
        self.sc = sc

    @property
    def key(self) -> Any:
        return self.sc

    def check(self) -> None:
        check_context(self.sc, "make another SparkContext, and reserve a cluster with it")

    @property
    def master(self) -> str:
        return str(self.sc.master)

    @property
    def local(self) -> bool:
        return bool(self.sc._jsc.sc().isLocal())

    def settings(self) -> dict[str, str]:
        return dict(self.sc.getConf().getAll())

    def front(self) -> tuple[str, str]:
        if self.local:
            return "127.0.0.1", "127.0.0.1"
        conf = self.sc.getConf()
        advertise = conf.get("spark.driver.host", socket.gethostname())
        return conf.get("spark.driver.bindAddress", advertise), advertise

    # ---- where tasks can go --------------------------------------------------------------------------------------------------

    def slots(self, timeout: float = 0.0) -> TaskSlots:
        """From the driver's own books; no job is run."""
        jsc = self.sc._jsc.sc()
        cores = tuple(int(executor.totalCores()) for executor in self._executors())
        profile = jsc.resourceProfileManager().defaultResourceProfile()
        return TaskSlots(int(jsc.maxNumConcurrentTasks(profile)), cores, bool(jsc.isLocal()))

    def recount(self, known: TaskSlots) -> TaskSlots:
        return known if known.local else self.slots()

    def loads(self) -> dict[str, int]:
        return {str(executor.id()): int(executor.activeTasks()) for executor in self._executors()}

    def _executors(self) -> list[Any]:
        jsc = self.sc._jsc.sc()
        local = bool(jsc.isLocal())
        executors = jsc.statusStore().executorList(True)
        listed = [executors.apply(i) for i in range(executors.size())]
        # The driver is listed too; off local mode it runs no tasks.
        return [executor for executor in listed if (executor.id() == "driver") == local and executor.totalCores() > 0]

    def parallelism(self) -> int:
        return int(self.sc.defaultParallelism)

    def profile(self, cpus: int, gpus: int) -> Any | None:
        from py4j.protocol import Py4JJavaError
        from pyspark.resource import ResourceProfileBuilder, TaskResourceRequests

        whole = TaskResourceRequests().cpus(cpus)
        if gpus:
            whole.resource("gpu", gpus)
        profile = ResourceProfileBuilder().require(whole).build
        try:
            self.sc.parallelize([0], 1).withResources(profile)
        except Py4JJavaError:
            return None
        return profile

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
        # Which broadcast variables go with a job is noted per thread while its function is pickled.
        for variable in broadcasts:
            self.sc._pickled_broadcast_vars.add(variable)
        rdd = self.sc.parallelize(items, max(len(items), 1))
        rdd = (rdd.barrier() if barrier else rdd).mapPartitionsWithIndex(task)
        if profile is not None:
            rdd = rdd.withResources(profile)
        return self.collect(rdd, None if numbers is None else lambda _: list(numbers))

    def collect(self, tasks: Any, numbers: Callable[[int], list[int]] | None = None) -> list[Any]:
        """Spark launches the tasks of a job in the order in which its partitions are listed, as far as locality lets it
        (apache/spark, core/src/main/scala/org/apache/spark/scheduler/TaskSetManager.scala, ``addPendingTask``)."""
        if numbers is None:
            return list(tasks.collect())
        rdd = tasks.rdd if is_frame(tasks) else tasks
        chosen = numbers(rdd.getNumPartitions())
        return list(self.sc.runJob(_Ready(rdd), list, chosen)) if chosen else []

    def thread(self, target: Callable[[], None], name: str) -> threading.Thread:
        from pyspark import InheritableThread
        from pyspark.sql import utils

        # A program that has a session of Spark Connect, too, has set the one switch by which this class tells which is meant.
        remote = getattr(utils, "is_remote", lambda: False)()
        return (threading.Thread if remote else InheritableThread)(target=target, name=name, daemon=True)

    def begin(self, group: str, description: str) -> None:
        self.sc.setJobGroup(group, f"tfos_fast: {description}", interruptOnCancel=False)

    def end(self, group: str) -> None:
        """A job group belongs to its thread, and the thread ends."""

    def cancel(self, group: str) -> None:
        with contextlib.suppress(Exception):  # the Spark context may be stopped
            self.sc.cancelJobGroup(group)

    def cancel_stage(self, stage: int, reason: str) -> None:
        with contextlib.suppress(Exception):  # the Spark context may be stopped
            tracker = self.sc.statusTracker()
            jobs = [(number, tracker.getJobInfo(number)) for number in tracker.getActiveJobsIds()]
            for number, job in jobs:
                if job is not None and stage in job.stageIds:
                    self.sc._jsc.sc().cancelJob(number, reason)

    def partitions(self, group: str) -> int | None:
        stage = self._last_stage(group)
        return None if stage is None else int(stage.numTasks)

    def unlaunched(self, group: str) -> int:
        stage = self._last_stage(group)
        return 0 if stage is None else stage.numTasks - stage.numActiveTasks - stage.numCompletedTasks

    def _last_stage(self, group: str) -> Any:
        try:
            tracker = self.sc.statusTracker()
            jobs = [tracker.getJobInfo(number) for number in tracker.getJobIdsForGroup(group)]
            last = max((stage for job in jobs if job is not None for stage in job.stageIds), default=None)
            return None if last is None else tracker.getStageInfo(last)
        except Exception:  # noqa: BLE001  # the Spark context may be stopped
            return None

    # ---- what goes along -----------------------------------------------------------------------------------------------------

    def pickle(self, value: Any) -> tuple[bytes, list[Any]]:
        from tfos_fast.cluster.spark import closure

        self.sc._pickled_broadcast_vars.clear()
        try:
            payload = closure.dumps(value)
            return payload, list(self.sc._pickled_broadcast_vars)
        finally:
            self.sc._pickled_broadcast_vars.clear()

    def small_batches(self, frame: Any) -> Any:
        return in_small_batches(self.sc, frame)

    def parse(self, schema: str) -> Any:
        from pyspark.sql.types import _parse_datatype_string

        return _parse_datatype_string(schema)

    def send_package(self, build: Callable[[Path, Iterable[str]], Path], along: Iterable[str]) -> Path:
        along = sorted(set(along) | set(self.sc.environment.get(_SHIPPED, "").split(",")[1:]))
        folder = Path(getattr(self.sc, "_temp_dir", None) or tempfile.mkdtemp(prefix="tfos-fast-"))  # Spark removes its own
        unfinished = build(folder / "tfos_fast.zip.new", along)
        digest = hashlib.sha256(unfinished.read_bytes()).hexdigest()[:12]
        archive = unfinished.rename(folder / f"tfos_fast-{tfos_fast.__version__}-{digest}.zip")
        self.sc.addArchive(f"{archive}#tfos_fast")
        # Spark keeps the Python workers of each environment apart: no worker that has imported another version goes on
        # with this one.
        self.sc.environment[_SHIPPED] = ",".join([digest, *along])
        return archive


class _Ready:
    """An RDD for ``runJob`` that is run as it is: ``runJob`` maps a function over it first, and for that each task of a DataFrame
    would need a second Python worker."""

    def __init__(self, rdd: Any) -> None:
        self._rdd = rdd

    def mapPartitions(self, *_: Any) -> Any:
        """The RDD."""
        return self._rdd
