"""Where nodes can go: counting Spark's slots before any job is started, and the resource profile that spreads nodes over executors.

Spark itself re-checks a barrier job that has too few slots every 15 seconds, up to 40 times; so we look first and say so at once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from tfos_fast.cluster.spark.engine import Engine
from tfos_fast.cluster.spark.task_slots import TaskSlots
from tfos_fast.errors import NotEnoughSlots, UnevenExecutors

SETTLE = 15.0  # seconds without a new executor after which no more are expected


def most_slots(master: str, settings: Mapping[str, str]) -> int | None:
    """As many slots as an application can ever get, where its settings tell; None where they do not.

    Parameters
    ----------
    master : str
    settings : mapping
        Spark's settings, ``spark.cores.max`` and the like.
    """
    task_cpus = max(1, int(settings.get("spark.task.cpus", "1")))
    shape = re.fullmatch(r"local-cluster\[\s*(\d+)\s*,\s*(\d+)\s*,\s*\d+\s*]", master)
    if shape:
        return int(shape.group(1)) * (int(shape.group(2)) // task_cpus)
    threads = re.fullmatch(r"local(?:\[(\d+)(?:\s*,\s*\d+)?])?", master)
    if threads:
        return int(threads.group(1) or 1) // task_cpus
    bounds = []
    if "spark.cores.max" in settings:
        bounds.append(int(settings["spark.cores.max"]) // task_cpus)
    if "spark.executor.instances" in settings and "spark.executor.cores" in settings:
        bounds.append(int(settings["spark.executor.instances"]) * (int(settings["spark.executor.cores"]) // task_cpus))
    return min(bounds, default=None)


def setting_for_slots(master: str) -> str:
    """Which setting gives an application more slots."""
    if master.startswith("local-cluster"):
        return "the master's name: local-cluster[executors, cores of each, MiB of each]"
    if master.startswith("local"):
        return "the master's name: local[number of slots]"
    if master.startswith("spark:"):
        return "spark.cores.max and spark.executor.cores, and the workers that are running"
    return "spark.executor.instances and spark.executor.cores"


def wait_for_slots(engine: Engine, needed: int, timeout: float) -> TaskSlots:
    """Wait until Spark has registered enough executors for ``needed`` tasks at once.

    Raises
    ------
    NotEnoughSlots
        The settings do not allow for so many (raised at once), or no further executor came.
    """
    begin = changed = time.monotonic()
    slots = engine.slots(timeout)
    most = slots.tasks if slots.local else most_slots(engine.master, engine.settings())
    if most is not None and most < needed:
        raise _too_few(engine, most, needed, "can have")
    seen = -1
    while True:
        # On a cluster where not every executor has come yet, a short wait gives each node an executor of its own.
        everybody = most is None or slots.tasks >= most or len(slots.executor_cores) >= needed
        now = time.monotonic()
        if slots.tasks != seen:
            seen, changed = slots.tasks, now
        settled = seen > 0 and now - changed > SETTLE
        if slots.tasks >= needed and (everybody or settled):
            return slots
        if now - begin > timeout or (settled and most is None):
            raise _too_few(engine, slots.tasks, needed, f"has, {now - begin:.0f} s after it was asked,")
        time.sleep(0.1)
        slots = engine.slots(max(0.0, timeout - (time.monotonic() - begin)))


def _too_few(engine: Engine, found: int, needed: int, verb: str) -> NotEnoughSlots:
    return NotEnoughSlots(
        f"{needed} nodes need {needed} task slots, and this Spark application (master {engine.master}) {verb} {found}. "
        f"Ask for fewer nodes (num_executors), or change {setting_for_slots(engine.master)}."
    )


def why_uneven(slots: TaskSlots, nodes: int) -> str:
    """Why Spark cannot put each node on an executor of its own although there are enough; empty when it can, or need not."""
    if slots.local or nodes < 2 or len(slots.executor_cores) < nodes:
        return ""
    least, most = min(slots.executor_cores), max(slots.executor_cores)
    if least == most:
        return ""
    return (
        f"the executors have between {least} and {most} cores: a task that fills the smallest leaves room for a second node in "
        f"a larger one, and one that fills the largest fits no other; set spark.executor.cores to {least}: then all are alike"
    )


def spreading_profile(engine: Engine, slots: TaskSlots, nodes: int) -> Any | None:
    """A resource profile that fills an executor with one task, so that a barrier job puts each node on an executor of its own.

    None where nodes must share executors, or where Spark has no such profiles (local mode).

    Raises
    ------
    UnevenExecutors
        A task that fills the smallest of them would leave room for a second one in a larger.
    """
    if slots.local or len(slots.executor_cores) < nodes:
        return None
    if why := why_uneven(slots, nodes):
        raise UnevenExecutors(why)
    # A profile that does not ask for the executor's GPUs gets none. None: this cluster manager or version takes no profiles of task
    # resources alone; Spark still spreads tasks over free slots.
    return engine.profile(min(slots.executor_cores), int(engine.settings().get("spark.executor.resource.gpu.amount", "0")))
