"""Named points: a process of a cluster that comes to the point which a plan names says so in a file, and waits to be struck.

The plan is a file in the folder that the environment variable ``TFOS_FAILURES`` names, on the executors and in all that they start.
Without a plan nothing here does anything.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

FOLDER = "TFOS_FAILURES"
PLAN, REACHED, STRUCK, RAISE = "plan.json", "reached.json", "struck", "raise"
ROW = "tfos_fast.failures.row"  # a local property of Spark's, so that a task knows which row it is of


class Planned(ArithmeticError):
    """The exception of a row of the table."""


def write(path: Path, value: Any) -> None:
    """Whole or not at all."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(value))
    unfinished.rename(path)


def read(name: str) -> Any:
    """What lies in the folder under this name, or None."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        return None
    try:
        return json.loads(Path(folder, name).read_text())
    except FileNotFoundError:
        return None


def reach(who: str, when: str, node: str = "") -> None:
    """This process, one of ``who``, has come to a point. The first one that the plan means says so and waits until it is struck."""
    plan = read(PLAN)
    if plan is None or (plan["reporter"], plan["when"]) != (who, when):
        return
    if who in ("feeder", "worker") and _row() not in (None, plan["row"]):
        return
    folder = Path(os.environ[FOLDER])
    mine = folder / f"{REACHED}.{os.getpid()}"
    mine.write_text(json.dumps({"pid": os.getpid(), "node": node, "executor": _executor(), "time": time.monotonic()}))
    try:
        os.link(mine, folder / REACHED)  # fails for all but the first
    except FileExistsError:
        return
    finally:
        mine.unlink()
    if plan["raises"]:
        print(f"{who} {node}: about to fail as planned", flush=True)
        raise Planned(f"planned for {who} at {when}")
    while not (folder / STRUCK).exists():
        time.sleep(0.01)


def _row() -> str | None:
    from pyspark import TaskContext

    context = TaskContext.get()
    return None if context is None else context.getLocalProperty(ROW)


def _executor() -> int:
    import psutil

    return next((parent.pid for parent in psutil.Process().parents() if parent.name() == "java"), 0)
