"""Runs one row of the table on a running Spark: brings a cluster to the point, strikes, and says what came of it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import tfos_fast
from tests.failures import mains, points
from tests.failures.table import EXCEPTION, KILL, STOP, Row
from tests.support.leaks import our_processes, our_segments, our_sockets

STALL = 4.0  # feed_timeout where somebody is stopped
RESERVE = 8.0  # reservation_timeout of rows whose reservation comes to nothing
WAIT = 60.0
SIGNALS = {KILL: signal.SIGKILL, STOP: signal.SIGSTOP}


@dataclass
class Outcome:
    """Of one row.

    Attributes
    ----------
    error : Exception or None
        What the driver raised.
    seconds : float
        From the strike to the exception.
    pid, node
        Of the victim.
    results : list or None
        Of an inference.
    """

    error: BaseException | None = None
    seconds: float = 0.0
    pid: int = 0
    node: str = ""
    results: list[int] | None = None
    left: dict[str, str] = field(default_factory=dict)


def ports() -> set[tuple[str, int]]:
    """That this process listens on."""
    return {tuple(c.laddr) for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN}


def reporter(row: Row) -> str:
    """Whose coming to the point starts it."""
    if row.who in ("trainer", "feeder", "worker"):
        return row.who
    if row.when == "reserve":
        return "agent" if row.who == "agent" else "worker"
    return "trainer"


class Striker(threading.Thread):
    """Waits for the point, then does to the victim what the row says."""

    def __init__(self, row: Row, folder: Path) -> None:
        super().__init__(daemon=True)
        self.row, self.folder = row, folder
        self.cluster: Any = None
        self.time = 0.0
        self.pid = 0
        self.node = ""
        self.over = threading.Event()

    def run(self) -> None:
        while (reached := points.read(points.REACHED)) is None:
            if self.over.wait(0.005):
                return
        self.pid, self.node = self._victim(reached)
        self.time = reached["time"]  # an exception is raised at once
        if self.row.what == EXCEPTION:
            if self.row.who == "agent" and self.row.when != "reserve":
                self.time = time.monotonic()
                points.write(self.folder / points.RAISE, self.pid)
                # It looks once a second, and what waits for the strike would be over before.
                with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
                    psutil.Process(self.pid).wait(10)
        else:
            self.time = time.monotonic()
            os.kill(self.pid, SIGNALS[self.row.what])
            if self.row.what == KILL and self.row.who in ("agent", "executor") and reporter(self.row) == "trainer":
                # It dies with them. A main that goes on may have returned before anybody sees their end, which is no failure then.
                with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
                    psutil.Process(reached["pid"]).wait(10)
        (self.folder / points.STRUCK).touch()

    def _victim(self, reached: dict[str, Any]) -> tuple[int, str]:
        node = reached["node"]
        if self.row.when != "reserve" and self.row.who in ("agent", "executor"):
            info = next(info for info in self.cluster.nodes if info.name == node)
            return (info.agent if self.row.who == "agent" else info.executor).pid, node
        return (reached["executor"] if self.row.who == "executor" else reached["pid"]), node

    def release(self) -> None:
        """End, and let what is stopped and not ours go on.

        A worker that was to start an agent would do so now, for a cluster that is no more and in the middle of the next row.
        """
        self.over.set()
        self.join()
        if self.pid and self.row.what == STOP:
            late = self.row.who == "worker" and self.row.when == "reserve"
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL if late else signal.SIGCONT)


def run(sc: Any, row: Row, folder: Path, out: str) -> Outcome:
    """Run the row. ``folder`` is the one that the executors' ``TFOS_FAILURES`` names."""
    for file in folder.iterdir():
        file.unlink()
    looks = (our_processes, our_segments, our_sockets)
    before, listening = [set(look()) for look in looks], ports()
    who = reporter(row)
    raises = row.what == EXCEPTION and who == row.who
    # Told along with the row's Spark jobs: a straggling task of the row before is not the one that is meant.
    sc.setLocalProperty(points.ROW, str(row))
    points.write(folder / points.PLAN, {"reporter": who, "when": row.when, "raises": raises, "row": str(row)})
    striker = Striker(row, folder)
    striker.start()
    outcome = Outcome()
    try:
        with contextlib.ExitStack() as stack:
            try:
                _drive(sc, row, out, striker, stack, outcome)
            except BaseException:
                outcome.seconds = time.monotonic() - striker.time
                raise
    except Exception as error:
        outcome.error = error
    finally:
        (folder / points.PLAN).unlink()
        (folder / points.STRUCK).touch()  # whoever waits goes on
        striker.release()
    assert striker.pid, "the point was never reached"
    outcome.pid, outcome.node = striker.pid, striker.node
    deadline = time.monotonic() + 40
    while True:
        left = {str(k): str(v) for look, old in zip(looks, before, strict=True) for k, v in look().items() if k not in old}
        left |= {f"port {port}": "listening" for port in ports() - listening}
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    outcome.left = left
    return outcome


def _drive(sc: Any, row: Row, out: str, striker: Striker, stack: contextlib.ExitStack, outcome: Outcome) -> None:
    short = row.what == STOP and (row.when == "reserve" or row.who == "worker")
    timeout = RESERVE if short else WAIT
    cluster = tfos_fast.reserve(sc, 2, memory="1m", slot_bytes="64k", reservation_timeout=timeout)
    stack.enter_context(cluster)
    striker.cluster = cluster
    data = sc.parallelize(range(2), 2)
    stall = STALL if row.what == STOP else WAIT
    infers = row.when == "inference result"
    cluster.start(mains.infer if infers else mains.train, {"out": out}, max_restarts=row.restarts)
    if row.what == STOP:
        # How long a trainer takes to begin is no part of the timeout.
        beats = lambda: [node.beat for node in cluster._coordinator.nodes.values()]  # noqa: E731
        begun = lambda: striker.time if row.when == "start" else all(beat and beat.reader for beat in beats())  # noqa: E731
        cluster._coordinator.wait(lambda: bool(begun()), WAIT, "the test waits for trainers")
    if infers:
        results = cluster.infer(data.flatMap(mains.source), feed_timeout=stall)
        outcome.results = results.mapPartitions(mains.results).collect()
    else:
        cluster.feed(data.flatMap(mains.source), feed_timeout=stall)
    cluster.shutdown(stall_timeout=stall)
