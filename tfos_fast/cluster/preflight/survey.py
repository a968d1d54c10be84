"""Before anything is started: look at Spark's settings, its slots and its executors, and tell all that stands in the way at once.

The executors are looked at by one small Spark job, a task on each. `tfos_fast.cluster.spark.probe` travels to them by value, since
their Python may not have this package; `tfos_fast.cluster.preflight.checks` judges what they found.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.preflight.checks import (
    LOOKED_AT,
    NEEDED,
    Facts,
    Need,
    Problem,
    check_executors,
    check_settings,
    check_shipped,
    explain_spark,
    raise_problems,
)
from tfos_fast.cluster.preflight.ship_package import ALONG, NAME, build
from tfos_fast.cluster.protocol.failures import job_exception
from tfos_fast.cluster.spark import probe
from tfos_fast.cluster.spark.engine import Engine
from tfos_fast.cluster.spark.jobs import SparkJob
from tfos_fast.cluster.spark.placement import spreading_profile, wait_for_slots, why_uneven
from tfos_fast.cluster.spark.task_slots import TaskSlots
from tfos_fast.errors import NotEnoughSlots, UnevenExecutors

log = logging.getLogger("tfos_fast.cluster")

PATIENCE = 3.0  # seconds that an executor waits for the coordinator's answer
HOLD = 0.3  # seconds that a task stays where Spark cannot be told to put each on an executor of its own

# Spark context -> executors (and where the coordinator is) of which it is known that nothing stands in the way.
_sound: WeakKeyDictionary[Any, set[tuple[frozenset[str], str]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Survey:
    """A look at one Spark application for one cluster to be.

    Parameters
    ----------
    engine : Engine
    coordinator : Coordinator
    nodes : int
    memory : int
        Bytes of a node's segment.
    timeout : float
        Seconds to wait for executors, and for the look at them.
    reach : bool
        Executors must reach the coordinator.
    """

    engine: Engine
    coordinator: Coordinator
    nodes: int
    memory: int
    timeout: float
    reach: bool = True

    def check(self) -> TaskSlots:
        """The slots, when nothing stands in the way.

        Executors that were found sound are not looked at again for another cluster; their memory is compared by every agent when
        it takes it.

        Raises
        ------
        NotEnoughSlots, UnevenExecutors, SettingRefused, NotEnoughMemory, VersionMismatch, MissingDependency, CoordinatorUnreachable
            The one thing that stands in the way.
        PreflightFailed
            Several do.
        """
        found = check_settings(self.engine.settings())
        problems = found.problems
        fixed = not problems  # with dynamic allocation the executors come when they are needed
        try:
            slots = wait_for_slots(self.engine, self.nodes, self.timeout) if fixed else self.engine.slots(self.timeout)
        except NotEnoughSlots as error:
            problems.append(Problem(NotEnoughSlots, str(error)))
            slots = self.engine.slots(self.timeout)  # those that there are: their executors are looked at all the same
        if uneven := why_uneven(slots, self.nodes):
            problems.append(Problem(UnevenExecutors, uneven))
        executors = self.engine.loads()
        key = (frozenset(executors), self.coordinator.keys.endpoint.rpartition(":")[0] if self.reach else "")
        known = _sound.setdefault(self.engine.key, set())
        if executors and key not in known:
            problems += self._executors(slots, spread=fixed)
            for text in dict.fromkeys(found.advice):
                log.warning("%s", text)
        raise_problems(problems)
        known.add(key)
        return slots

    def _executors(self, slots: TaskSlots, *, spread: bool) -> list[Problem]:
        facts = self.look(slots, spread=spread)
        if isinstance(facts, Problem):
            return [facts]
        driver = Facts(**probe.look(NAME, ALONG, LOOKED_AT, None, PATIENCE, ()))
        found = check_executors(facts, driver, Need(self.nodes, self.memory, self.coordinator.keys.endpoint))
        for text in found.advice:
            log.warning("%s", text)
        if not found.problems and found.ship:
            archive = self.engine.send_package(build, found.along)
            log.info("tfos_fast is sent to the executors as %s", archive)
            facts = self.look(slots, spread=spread, load=tuple(NEEDED))
            return [facts] if isinstance(facts, Problem) else check_shipped(facts, driver, found.along)
        return found.problems

    def look(self, slots: TaskSlots, *, spread: bool, load: tuple[str, ...] = ()) -> list[Facts] | Problem:
        """Facts from executors, one entry each as far as Spark lets us reach each; or why Spark cannot run Python there."""
        probe.travel()
        endpoint = self.coordinator.keys.endpoint.removeprefix("tcp://")
        host, _, port = endpoint.rpartition(":")
        arguments = (NAME, ALONG, LOOKED_AT, (host, int(port)) if self.reach else None, PATIENCE, load)
        loads = self.engine.loads()
        # An executor that is busy with other work would keep a barrier waiting: then as many as there will be nodes.
        count = len(loads) if not any(loads.values()) else min(len(loads), self.nodes)
        profile = spreading_profile(self.engine, slots, count) if spread and not why_uneven(slots, count) else None
        tasks = count if profile is not None or slots.local else max(1, slots.tasks)
        task = functools.partial(probe.task, arguments, HOLD if profile is None and tasks > 1 else 0.0)

        def action() -> list[dict[str, Any]]:
            return self.engine.run(task, range(tasks), barrier=profile is not None, profile=profile)

        job = SparkJob(self.engine, "look at the executors", action, self.coordinator.changed)
        try:
            who = f"the driver waits for Spark to run {tasks} tasks at once, which look at the executors (reservation_timeout)"
            self.coordinator.wait(lambda: job.done, self.timeout, who)
        except BaseException:
            job.cancel()
            raise
        if job.error is not None:
            problem = explain_spark(str(job.error))
            if problem is None:
                raise job_exception(job.error)
            return problem
        # Several tasks may have met in one Python process's executor: the same words once are enough.
        facts = [Facts(**found) for found in job.result]
        return facts if profile is not None else _apart(facts)


def _apart(facts: list[Facts]) -> list[Facts]:
    """Of facts from tasks that may have shared executors, one for each machine and Python."""
    return list({(one.machine, one.executable): one for one in facts}.values())
