"""A Spark worker's surroundings, for a trainer that is a fresh interpreter: module path, folder, environment, files, broadcasts."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tfos_fast.cluster.protocol.handover import Handover
from tfos_fast.errors import ClusterError

# They let a process talk to Spark's own daemon or JVM, and belong to the Python worker or the driver alone.
_SECRETS = (
    "PYTHON_WORKER_FACTORY_SECRET",
    "PYTHON_WORKER_FACTORY_PORT",
    "PYTHON_WORKER_FACTORY_SOCK_PATH",
    "PYTHON_WORKER_FACTORY_SOCK_DIR",
    "PYSPARK_GATEWAY_PORT",
    "PYSPARK_GATEWAY_SECRET",
)


def worker_environment() -> dict[str, str]:
    """The environment of this Spark worker (or driver) without Spark's secrets."""
    return {name: value for name, value in os.environ.items() if name not in _SECRETS}


def worker_path() -> list[str]:
    """``sys.path`` of this Spark worker with absolute entries."""
    return [os.path.abspath(path) for path in sys.path]


def spark_files() -> str:
    """The folder of ``SparkFiles`` of this Spark worker (or driver); a client of Spark Connect has none."""
    from pyspark import SparkContext, SparkFiles

    if not SparkFiles._is_running_on_worker and SparkContext._active_spark_context is None:
        return os.getcwd()
    return os.path.abspath(SparkFiles.getRootDirectory())


def save_broadcasts(ids: Iterable[int], directory: Path, variables: Mapping[int, Any] | None = None) -> dict[int, str]:
    """Keep the pickled values of broadcast variables as they came from the driver; no value is unpickled.

    With ``spark.io.encryption`` Spark hands them to its workers unpickled only; then they are pickled again. So are those of the
    driver, which are given as ``variables``.
    """
    registry = _broadcast_module()._broadcastRegistry if variables is None else variables
    saved = {}
    for number in ids:
        variable = registry[number]
        target = directory / f"broadcast-{number}"
        source = getattr(variable, "_path", None) if variables is None else None
        if source is not None:
            shutil.copyfile(source, target)  # Spark removes its own file when it likes
        else:
            with open(target, "wb") as file:
                variable.dump(variable.value, file)
        saved[number] = str(target)
    return saved


def apply(handover: Handover) -> None:
    """Make this process look like the Spark worker that wrote the handover."""
    os.chdir(handover.directory)
    sys.path[:] = handover.sys_path
    os.environ.clear()
    os.environ.update(handover.environ)
    from pyspark import SparkFiles

    SparkFiles._root_directory = handover.spark_files
    SparkFiles._is_running_on_worker = True
    module = _broadcast_module()
    for number, path in handover.broadcasts.items():
        module._broadcastRegistry[number] = module.Broadcast(path=path)


def _broadcast_module() -> Any:
    try:
        from pyspark.core import broadcast
    except ImportError:
        from pyspark import broadcast  # before Spark 4
    if not hasattr(broadcast, "_broadcastRegistry"):
        raise ClusterError("this version of pyspark keeps its broadcast variables in a place that tfos_fast does not know")
    return broadcast
