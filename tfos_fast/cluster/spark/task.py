"""Where a Spark task runs: its executor, its partition, attempt and stage, and the Python worker that runs many tasks."""

from __future__ import annotations

import functools
import gc
import os

import psutil

from tfos_fast.channel.host.reuse import keep_connections
from tfos_fast.errors import ClusterError


def executor_pid() -> int:
    """Process id of the executor's JVM: the nearest ancestor of this Spark worker that is no Python."""
    return _executor_of(os.getpid())


@functools.cache  # it stays the same, and a look at ten ancestors costs more than the rest of what a task begins with
def _executor_of(pid: int) -> int:
    process = psutil.Process(pid)
    ancestor_pid: int
    for ancestor in process.parents():
        if ancestor.name() == "java":
            ancestor_pid = ancestor.pid
            return ancestor_pid
    # A JVM under another name: it is what spawned pyspark's daemon, or this worker where the daemon is switched off.
    for ancestor in process.parents():
        if "python" not in ancestor.name():
            ancestor_pid = ancestor.pid
            return ancestor_pid
    raise ClusterError(f"process {process.pid} is no Spark worker: no executor among its ancestors")


def attempt_here() -> tuple[int, int]:
    """Partition number and attempt id (which grows from each launch to the next) of the Spark task that this runs in."""
    from pyspark import TaskContext

    task = TaskContext.get()
    if task is None:
        raise ClusterError("rows can be fed from a Spark task only")
    return task.partitionId(), task.taskAttemptId()


def stage_here() -> int:
    """Number of the stage that this Spark task belongs to."""
    from pyspark import TaskContext

    task = TaskContext.get()
    return -1 if task is None else int(task.stageId())


@functools.cache
def settle_worker() -> None:
    """This process runs more tasks: it keeps its connections, and the garbage collector passes over all that is imported.

    Spark's Python worker collects after every task (pyspark, daemon.py: ``gc.collect()``), which with numpy, ZeroMQ and this
    package imported takes some 20 ms each time. Once in the life of a worker; what reference counts free is freed as before.
    """
    keep_connections()
    gc.collect()
    gc.freeze()
