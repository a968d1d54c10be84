"""Spark through a Spark Connect session: no SparkContext, no RDD, and this process is no relative of the JVM.

Every task is a ``mapInArrow`` over a range of numbers. What only the scheduler's books would tell, executors and their cores, is
asked of the executors themselves by a small job.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyspark

import tfos_fast
from tfos_fast.cluster.host.addresses import numeric
from tfos_fast.cluster.protocol.failures import job_exception
from tfos_fast.cluster.protocol.identity import address_towards
from tfos_fast.cluster.spark import probe
from tfos_fast.cluster.spark.engine import Task
from tfos_fast.cluster.spark.jobs import SparkJob
from tfos_fast.cluster.spark.placement import most_slots
from tfos_fast.cluster.spark.task_slots import TaskSlots
from tfos_fast.errors import ClusterError, NeedsSparkContext

HOLD = 0.3  # seconds that a task of the census stays, so that the others go to other slots
_RESULT = "result binary"
_WIDE = 1 << 16  # rows of a range of which Spark itself chooses the number of partitions


class Connect:
    """An `Engine` (see there for what each method does).

    Parameters
    ----------
    session : pyspark.sql.connect.session.SparkSession

    Raises
    ------
    NeedsSparkContext
        Spark is older than 4.0: its sessions have no resource profiles and no reports on progress.
    """

    rdds = False

    def __init__(self, session: Any) -> None:
        if int(pyspark.__version__.partition(".")[0]) < 4:
            raise NeedsSparkContext(
                f"sessions of Spark Connect can be used from Spark 4.0 on, and this is {pyspark.__version__}; use a SparkContext"
            )
        self.session = session
        self._settings: dict[str, str] = {}
        self._executors: dict[str, int] = {}  # as the last census found them: id -> cores
        self._tasks: dict[str, _Progress] = {}
        probe.travel()

    @property
    def key(self) -> Any:
        return self.session

    def check(self) -> None:
        if getattr(self.session, "is_stopped", False):
            raise ClusterError("the session of Spark Connect was stopped: make another one, and reserve a cluster with it")

    @property
    def master(self) -> str:
        return self.settings().get("spark.master", "")

    @property
    def local(self) -> bool:
        return self.master.startswith("local") and not self.master.startswith("local-cluster")

    def settings(self) -> dict[str, str]:
        if not self._settings:
            self._settings = dict(self.session.conf.getAll)
        return self._settings

    def front(self) -> tuple[str, str]:
        """This process's address on the network that leads to the server.

        A server behind a loopback address is on this host, and its ``spark.driver.host`` is what executors know of it; or it is at
        the other end of a tunnel, and then the look at the executors shows that they do not reach us.
        """
        ip = numeric(self.session.client.host, "the address of the Spark Connect server")
        if not ip:
            raise ClusterError(f"nobody here knows the address of the Spark Connect server, {self.session.client.host!r}")
        if not ip.startswith("127."):
            here = address_towards(ip, 15002)
            return here, here
        advertise = "127.0.0.1" if self.local else self.settings().get("spark.driver.host", socket.gethostname())
        return advertise, advertise

    # ---- where tasks can go --------------------------------------------------------------------------------------------------

    def slots(self, timeout: float) -> TaskSlots:
        """By a census: tasks for all slots at once, each of which says where it is."""
        cpus = max(1, int(self.settings().get("spark.task.cpus", "1")))
        changed = threading.Condition()
        job = SparkJob(self, "count the slots", self._census, changed)
        deadline = time.monotonic() + timeout
        with changed:
            while not job.done and (left := deadline - time.monotonic()) > 0:
                changed.wait(left)
        if not job.done:
            job.cancel()
            return TaskSlots(0, (), self.local)
        if job.error is not None:
            raise job_exception(job.error)
        if self.local:
            most = most_slots(self.master, self.settings())
            tasks = most if most is not None else len(job.result) // cpus
            self._executors = {"driver": tasks}
            return TaskSlots(tasks, (tasks,), True)
        self._executors = {found["executor"]: found["cores"] or 1 for found in job.result}
        cores = tuple(self._executors.values())
        return TaskSlots(sum(each // cpus for each in cores), cores, False)

    def _census(self) -> list[dict[str, Any]]:
        partitions = "spark.default.parallelism" in self.settings() and most_slots(self.master, self.settings())
        numbers = self.session.range(0, _WIDE, 1, partitions) if partitions else self.session.range(0, _WIDE)
        found = numbers.mapInArrow(probe.in_arrow(probe.Census(HOLD), None, None), _RESULT).collect()
        return [pickle.loads(row[0]) for row in found]

    def recount(self, known: TaskSlots) -> TaskSlots:
        return known

    def loads(self) -> dict[str, int]:
        return dict.fromkeys(self._executors, 1)

    def parallelism(self) -> int:
        return max(1, sum(self._executors.values()))

    def profile(self, cpus: int, gpus: int) -> Any | None:
        from pyspark.errors import PySparkException
        from pyspark.sql.connect import proto

        wanted = {"cpus": cpus, "gpu": gpus}
        # pyspark's own builder works for the one active session of a process only.
        requests = {name: proto.TaskResourceRequest(resource_name=name, amount=amount) for name, amount in wanted.items() if amount}
        try:
            return _Profile(self.session.client._create_profile(proto.ResourceProfile(task_resources=requests)))
        except PySparkException:
            return None

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
        chosen = list(range(len(items)) if numbers is None else numbers)
        if not chosen:
            return []
        # Each task unpickles its own item only.
        pickled = {number: pickle.dumps(items[number]) for number in chosen}
        rows = self.session.range(0, len(chosen), 1, len(chosen))
        found = rows.mapInArrow(probe.in_arrow(task, pickled, chosen), _RESULT, barrier=barrier, profile=profile).collect()
        return [pickle.loads(row[0]) for row in found]

    def collect(self, tasks: Any, numbers: Callable[[int], list[int]] | None = None) -> list[Any]:
        return list(tasks.collect())

    def thread(self, target: Callable[[], None], name: str) -> threading.Thread:
        tags = set(self.session.getTags())

        def run() -> None:
            for tag in tags:
                self.session.addTag(tag)
            target()

        return threading.Thread(target=run, name=name, daemon=True)

    def begin(self, group: str, description: str) -> None:
        self._tasks[group] = progress = _Progress()
        self.session.registerProgressHandler(progress)
        self.session.addTag(group)

    def end(self, group: str) -> None:
        self.session.removeTag(group)
        if progress := self._tasks.pop(group, None):
            self.session.removeProgressHandler(progress)

    def cancel(self, group: str) -> None:
        with contextlib.suppress(Exception):  # the server may be gone
            self.session.interruptTag(group)

    def cancel_stage(self, stage: int, reason: str) -> None:
        """Nobody here can tell which jobs those are."""

    def partitions(self, group: str) -> int | None:
        progress = self._tasks.get(group)
        return None if progress is None else progress.last_stage()

    def unlaunched(self, group: str) -> int:
        return 0  # what the server tells of tasks comes every two seconds

    # ---- what goes along -----------------------------------------------------------------------------------------------------

    def pickle(self, value: Any) -> tuple[bytes, list[Any]]:
        from tfos_fast.cluster.spark import closure

        return closure.dumps(value), []

    def small_batches(self, frame: Any) -> Any:
        return frame

    def parse(self, schema: str) -> Any:
        return self.session._parse_ddl(schema)

    def send_package(self, build: Callable[[Path, Iterable[str]], Path], along: Iterable[str]) -> Path:
        with tempfile.TemporaryDirectory(prefix="tfos-fast-") as folder:  # the server gets a copy
            unfinished = build(Path(folder) / "tfos_fast.zip.new", sorted(along))
            digest = hashlib.sha256(unfinished.read_bytes()).hexdigest()[:12]
            archive = unfinished.rename(Path(folder) / f"tfos_fast-{tfos_fast.__version__}-{digest}.zip")
            self.session.addArtifacts(f"{archive}#tfos_fast", archive=True)
            return archive


class _Profile:
    """What ``mapInArrow(profile=)`` wants to know of a profile that the server has."""

    def __init__(self, number: int) -> None:
        self.id = number


class _Progress:
    """A handler of the session's reports on progress, which keeps those on the jobs of the thread that made it.

    Reports come every two seconds (``spark.connect.progress.reportInterval``), in the thread that waits for the result. The last
    stage is not in the first ones when there are others before it: so only a report counts that comes after the question.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._asked = False
        self._found: int | None = None

    def __call__(self, stages: Any, inflight_tasks: int, operation_id: str | None, done: bool) -> None:
        if self._asked and stages and threading.get_ident() == self._thread:
            self._found = int(max(stages, key=lambda stage: stage.stage_id).num_tasks)

    def last_stage(self) -> int | None:
        """Number of its tasks, some seconds after the first call."""
        self._asked = True
        return self._found
