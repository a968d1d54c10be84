"""What the driver does while it waits: it watches nodes and Spark jobs, and raises what has happened in the user's words."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING

from tfos_fast import errors
from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.coordinator.node_state import stuck
from tfos_fast.cluster.driver.inferences import Inferences
from tfos_fast.cluster.driver.named_feeds import Offers
from tfos_fast.cluster.driver.replay import EpochEnds, EpochReplay, RowsTaken
from tfos_fast.cluster.driver.source import source_of
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.failures import exception_of, job_exception, root_first, unfit
from tfos_fast.cluster.protocol.roles import FED
from tfos_fast.cluster.spark.engine import Engine
from tfos_fast.cluster.spark.jobs import SparkJob
from tfos_fast.cluster.spark.task_slots import TaskSlots
from tfos_fast.errors import ClusterError, ClusterTimeout

if TYPE_CHECKING:
    from tfos_fast.cluster.driver.epochs import Epoch

THREE_DAYS = 259200.0
LAST_TASKS = 2.0  # seconds in which tasks may end by themselves when no node takes rows any more and all have begun
MORE_TASKS = 0.2  # the same when Spark has not launched all; its own counts are up to 0.1 s old (spark.ui.liveUpdate.period)
TOGETHER = 0.2  # seconds in which failures of several nodes count as one event


class InputMode(IntEnum):
    """Where the rows come from.

    TENSORFLOW: ``main`` reads its data itself, nothing is fed, and the cluster waits for ``main``. SPARK: Spark tasks feed it.
    """

    TENSORFLOW = 0
    SPARK = 1


class Watching:
    """The state of a cluster in the driver, and waiting for it. :class:`Cluster` is what users see."""

    def __init__(
        self,
        engine: Engine,
        coordinator: Coordinator,
        nodes: tuple[m.NodeInfo, ...],
        slots: TaskSlots,
        *,
        log_level: str,
        start_timeout: float,
    ) -> None:
        self.sc = engine.key
        self._engine = engine
        self.nodes = nodes
        self.input_mode = InputMode.SPARK
        self._coordinator = coordinator
        self._slots = slots
        self._log_level = log_level
        self._start_timeout = start_timeout
        self._running = False
        self._closed = False
        self._told = False  # the failure was raised once
        self._watched = 0  # jobs and replays under way
        self._feeds = 0
        self._epochs = 0  # that were begun
        self._skipped = 0  # of these, that an earlier application was fed
        self._history: dict[int, Epoch] = {}  # those that may have to be run again
        self._max_restarts = 0
        self._keeping = False
        fed = tuple(node for node in nodes if node.job_name in FED)
        self._offers = Offers(coordinator, fed, lambda data: source_of(engine, data))
        self._inferences = Inferences(coordinator, engine)

    @property
    def _failed(self) -> bool:
        return self._coordinator.failure is not None

    def _raise_failure(self) -> None:
        if self._failed and not self._told:
            failure = self._failure()
            if isinstance(failure, errors.NodeLost):
                self._check_spark(failure)
            raise failure
        if self._offers.error is not None and not self._told:
            self._told = True
            raise self._explain(self._offers.error)

    def _check_spark(self, failure: errors.NodeLost) -> None:
        """Say that Spark was stopped, where that is why a node was lost."""
        try:
            self._engine.check()
        except ClusterError as error:
            raise ClusterError(
                f"{error}. Its executors ended, and the nodes with them ({failure.summary}): "
                "call cluster.shutdown() before sc.stop()"
            ) from failure

    def _failure(self) -> Exception:
        """What has happened to nodes, the cause first."""
        self._told = True
        with contextlib.suppress(ClusterTimeout):  # the others' words are on their way
            self._coordinator.wait(lambda: len(self._coordinator.failures) >= len(self.nodes), TOGETHER, "")
        return exception_of(*root_first(self._coordinator.failures))

    def _check(self, running: str = "") -> None:
        if self._closed:
            raise ClusterError("the cluster was shut down: reserve another one by tfos_fast.reserve or run")
        self._engine.check()
        self._raise_failure()
        if self._failed:
            assert self._coordinator.failure is not None
            raise ClusterError(f"the cluster has failed before: {self._coordinator.failure.summary}")
        if running and not self._running:
            raise ClusterError(f"no program runs on the cluster yet: call cluster.start(main, args) before {running}")
        if running and self.input_mode is not InputMode.SPARK:
            raise ClusterError(f"{running} needs InputMode.SPARK; with InputMode.TENSORFLOW main reads its data itself")

    def _order(self, make: Callable[[int], m.Order]) -> None:
        self._coordinator.order([node.name for node in self._fed_nodes], make, 60.0)

    @property
    def takes_rows(self) -> bool:
        """Whether rows that are fed would be taken by some node."""
        return any(state.eats for state in self._coordinator.nodes.values())

    @property
    def _fed_nodes(self) -> tuple[m.NodeInfo, ...]:
        """Those that Spark feeds now."""
        states = self._coordinator.nodes
        return tuple(node for node in self.nodes if states[node.name].fed)

    def _wait(self, condition: Callable[[], bool]) -> None:
        over = lambda: self._failed or self._offers.error is not None or not self.takes_rows or condition()  # noqa: E731
        self._coordinator.wait(over, THREE_DAYS, "the driver waits for the evaluation of a named feed")
        self._raise_failure()

    def _watch(
        self,
        job: SparkJob | EpochReplay | EpochEnds | RowsTaken,
        *,
        timeout: float | None = None,
        stall: float | None = None,
        key: str = "",
    ) -> None:
        """Wait for a Spark job and look after the nodes; it is cancelled when one fails, all have ended, or nothing moves.

        ``key``: of a job that feeds, under which its tasks tell of rows that cannot be fed.
        """
        begin = moved = eaten = time.monotonic()
        progress: list[int] = []
        pause = 0.5
        changed = self._coordinator.changed
        states = self._coordinator.nodes
        self._watched += 1
        steps = self._coordinator.steps
        try:
            while not job.done:
                with changed:
                    if not job.done:
                        changed.wait(pause)
                self._raise_failure()
                if key in self._coordinator.unfit:
                    raise unfit(*self._coordinator.unfit[key])
                now = time.monotonic()
                if (
                    steps.begun
                    and steps.wanted
                    and not steps.counted
                    and isinstance(job, SparkJob)
                    and (total := job.partitions()) is not None
                ):
                    self._coordinator.count_partitions(total)
                if stall is not None and not any(state.eats for state in states.values()):
                    if self._may_end(job, now - eaten):
                        pause = MORE_TASKS / 4
                        continue
                    job.cancel()
                    return
                eaten, pause = now, 0.5
                self._offers.warn()
                beats = [state.beat for state in states.values() if state.beat is not None]
                if [beat.progress for beat in beats] != progress:
                    progress, moved = [beat.progress for beat in beats], now
                if stall is not None and now - moved > stall and (who := steps.absent() or stuck(states.values())):
                    who = "; ".join(filter(None, (who, steps.waits(), *self._offers.unoffered().values())))
                    raise errors.StallTimeout(f"nothing moved for {now - moved:.0f} s: {who}. The setting is feed_timeout.")
                if timeout is not None and now - begin > timeout:
                    raise ClusterTimeout(f"the driver waits for Spark to run a job ({timeout:g} s)")
        except BaseException:  # Ctrl-C, too
            job.cancel()
            raise
        finally:
            self._watched -= 1
        if job.error is not None:
            raise self._explain(job.error)

    @staticmethod
    def _may_end(job: SparkJob | EpochReplay | EpochEnds | RowsTaken, seconds: float) -> bool:
        """Whether a job is left alone when no node has taken rows for so long: tasks behind the last row end by themselves."""
        if not isinstance(job, SparkJob):
            return False
        return job.done or seconds < MORE_TASKS or (seconds < LAST_TASKS and not job.unlaunched())

    def _explain(self, error: Exception) -> Exception:
        """The error of a Spark job in our words, if it came from a task or node of ours; else as it is."""
        error = job_exception(error)
        if not isinstance(error, errors.TfosError):
            try:
                self._engine.check()
            except ClusterError as stopped:
                told = ClusterError(f"{stopped}. A job of this cluster ran: call cluster.shutdown() before sc.stop()")
                told.spark_error = error
                return told
        if isinstance(error, errors.PeerDied | errors.NodeFailed | errors.NoNodeOnHost | errors.StallTimeout | errors.TaskLost):
            # The coordinator knows better what has happened, or will in a moment.
            with contextlib.suppress(ClusterTimeout):
                self._coordinator.wait(lambda: self._failed, 3.0, "")
            if self._failed and not self._told:
                return self._failure()
        if isinstance(error, errors.StallTimeout) and (unoffered := self._offers.unoffered()):
            return errors.StallTimeout(f"{error} {'; '.join(unoffered.values())}.")
        return error
