"""CPU time of each kind of process while a way of a case runs, for ``--profile``. Knows only this machine."""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

from benchmarks.spark import MARK

# What a process's command line says it is; the first that fits.
KINDS = (
    ("agents", ("tfos_fast.cluster.agent.agent",)),
    ("trainers", ("tfos_fast.cluster.trainer.main",)),
    ("Python workers", ("pyspark.daemon", "pyspark/daemon.py", "pyspark.worker", "pyspark/worker.py")),
    ("executors' JVMs", ("CoarseGrainedExecutorBackend",)),
    ("driver's JVM", ("org.apache.spark.deploy.SparkSubmit",)),
)
DRIVER, OTHER, ALL = "driver", "other", "all"


@dataclass
class Times:
    """Seconds of user and system time, by kind of process, and of the clock.

    Parameters
    ----------
    user, system : dict
    wall : float
    """

    user: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    system: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    wall: float = 0.0

    def add(self, before: Times, after: Times) -> None:
        """Add what went by between two looks."""
        for mine, old, new in ((self.user, before.user, after.user), (self.system, before.system, after.system)):
            for kind, seconds in new.items():
                mine[kind] += max(0.0, seconds - old.get(kind, 0.0))


@contextlib.contextmanager
def counted(times: Times) -> Iterator[None]:
    """Add to ``times`` what this run's processes use while the block runs."""
    before = look()
    begin = time.monotonic()
    yield
    times.wall += time.monotonic() - begin
    times.add(before, look())


def look() -> Times:
    """CPU times, up to now, of all processes of this run: the driver, what it started, and the agents (children of init)."""
    found = Times()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            kind = _kind(process)
            if kind is None:
                continue
            spent = process.cpu_times()
            # A worker that ends between two looks goes on counting: among the children of the daemon that waited for it.
            ended = kind == "Python workers"
            found.user[kind] += spent.user + (spent.children_user if ended else 0)
            found.system[kind] += spent.system + (spent.children_system if ended else 0)
    return found


def _kind(process: psutil.Process) -> str | None:
    """None when it is not of this run."""
    if process.pid == os.getpid():
        return DRIVER
    if process.environ().get(MARK) != os.environ[MARK]:
        return None
    command = " ".join(process.cmdline())
    return next((kind for kind, words in KINDS if any(word in command for word in words)), OTHER)


def table(cpu: dict[str, dict[str, dict[str, float]]]) -> Iterator[str]:
    """Lines of the table of what :func:`summary` made: a column for each way, a line for each kind of process."""
    if not cpu:
        return
    counted_rows = any("us_user" in found[ALL] for found in cpu.values())
    unit = "us a row" if counted_rows else "seconds"
    kinds = list(dict.fromkeys(kind for found in cpu.values() for kind in found if kind != ALL))
    yield f"  {f'CPU, {unit}, user+system':28}" + "".join(f"{way:>26}" for way in cpu)

    def cell(value: dict[str, float]) -> str:
        user, system = (value["us_user"], value["us_system"]) if counted_rows else (value["user"], value["system"])
        return f"{user + system:.3f} = {user:.3f}+{system:.3f}"

    for kind in [*kinds, ALL]:
        yield f"    {kind:26}" + "".join(f"{cell(found[kind]) if kind in found else '-':>26}" for found in cpu.values())
    yield f"    {'cores kept busy':26}" + "".join(f"{found[ALL]['cores']:>26.2f}" for found in cpu.values())


def summary(times: Times, rows: int) -> dict[str, dict[str, float]]:
    """Kind of process -> busy cores and, where ``rows`` were counted, microseconds (CPU seconds per million) of them."""
    found = {}
    for kind in [*times.user, ALL]:
        kinds = list(times.user) if kind == ALL else [kind]
        user, system = sum(times.user[one] for one in kinds), sum(times.system[one] for one in kinds)
        found[kind] = {"user": user, "system": system, "cores": (user + system) / times.wall}
        if rows:
            found[kind] |= {"us_user": 1e6 * user / rows, "us_system": 1e6 * system / rows}
    return found
