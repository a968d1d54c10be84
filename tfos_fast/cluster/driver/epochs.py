"""The epochs that a cluster was fed, and how each comes to its end at every node, however often trainers are started again.

Each epoch is one Spark job, and further ones over the partitions that are not whole: because a task made way for another feed, or
because a trainer has died. A node that is started again goes back to the epoch of its last commit. So the driver always runs the
earliest epoch that some node has not come through, for the nodes that are in it: mostly that is the newest one, for all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tfos_fast.cluster.coordinator.node_state import NodeState
from tfos_fast.cluster.driver.replay import EpochEnds, RowsTaken
from tfos_fast.cluster.driver.source import Source
from tfos_fast.cluster.driver.watch import THREE_DAYS, Watching
from tfos_fast.cluster.files.splits import Order
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.failures import check_rows
from tfos_fast.cluster.spark.jobs import SparkJob
from tfos_fast.cluster.tasks.feed import Feeder

ORDER_TIMEOUT = 60.0


@dataclass
class Epoch:
    """One that Spark feeds.

    Parameters
    ----------
    number : int
        Among all that the cluster was fed.
    job : str
        Prefix of the keys of its partitions.
    words : str
        What it is, for Spark's UI.
    """

    number: int
    job: str
    words: str
    source: Source
    order: Order | None
    exactly_once: bool
    feed_timeout: float
    left: frozenset[int] | None = None  # partitions that tasks have left; None: no task has run
    whole: set[int] = field(default_factory=set)  # partitions that were published whole, but for rows that are to come again
    missed: set[str] = field(default_factory=set)  # nodes that wanted no more in the middle of a partition; "": one came to none
    cut_off: bool = False  # the job was ended before all its tasks had
    round: int = -1  # of the nodes' agreement on steps, in which it was begun
    made_way: bool = False


class Epochs(Watching):
    """A cluster's epochs. :class:`Cluster` is what users see."""

    def _come_to(self, number: int) -> RowsTaken | None:
        """Run epochs until every node that takes rows has come to the one of this number.

        Returns
        -------
        RowsTaken or None
            The word of the nodes that they have all rows, from the last job on; None when there was none.
        """
        taken = None
        while behind := self._behind(number):
            at = min(state.at for state in behind)
            there = [state for state in behind if state.at == at]
            if all(self._coordinator.between(state.name) for state in there):
                self._await(there)
            elif at not in self._history:  # it was given up
                self._end_epoch(at)
            elif self._run(self._history[at], {state.name for state in there}):
                taken = RowsTaken(self._coordinator)
                self._end_epoch(at)
            self._raise_failure()
        return taken

    def _behind(self, number: int) -> list[NodeState]:
        with self._coordinator.changed:
            return [state for state in self._coordinator.nodes.values() if state.eats and state.at < number]

    def _is_whole(self, epoch: Epoch) -> bool:
        """Whether all its tasks came to their end, and nothing of it is left to feed."""
        return not (epoch.left is None or epoch.left or epoch.cut_off or self._coordinator.unfinished(epoch.job))

    def _lives(self, *, wait: bool = True) -> int:
        """How often the trainers that Spark feeds were started again; ``wait``: until none is between two lives."""
        coordinator = self._coordinator
        states = [state for state in coordinator.nodes.values() if state.trains]
        if wait:
            settled = lambda: self._failed or not any(coordinator.between(state.name) for state in states)  # noqa: E731
            coordinator.wait(settled, THREE_DAYS, "the driver waits for trainers to be started again")
        with coordinator.changed:
            return sum(len(state.restarts) for state in states)

    def _await(self, states: list[NodeState]) -> None:
        """Wait for trainers that are being started again."""
        coordinator = self._coordinator
        moved = lambda: self._failed or not all(coordinator.between(state.name) for state in states)  # noqa: E731
        coordinator.wait(moved, THREE_DAYS, "the driver waits for trainers to be started again")

    def _run(self, epoch: Epoch, names: set[str]) -> bool:
        """Run what is left of an epoch for these nodes. Whether it may be ended."""
        coordinator = self._coordinator
        if epoch.round != coordinator.round:
            coordinator.begin_epoch(epoch.job, epoch.number)
            epoch.round = coordinator.round
        todo = None if epoch.left is None else epoch.left | coordinator.unfinished(epoch.job)
        if todo is None or todo:
            coordinator.begin_job(epoch.job, epoch.number)
            coordinator.unfit.pop(epoch.job, None)
            nodes = tuple(node for node in self._fed_nodes if node.name in names)
            if not nodes:
                return False
            feeder = Feeder(
                nodes,
                coordinator.keys,
                epoch.job,
                epoch.feed_timeout,
                epoch.order.turn if epoch.order else 0,
                only=todo,
                exactly_once=epoch.exactly_once,
            )
            job = SparkJob(epoch.source.engine, epoch.words, epoch.source.action(feeder, epoch.order), coordinator.changed)
            self._watch(job, stall=epoch.feed_timeout, key=epoch.job)
            results = job.result or ()
            check_rows(results)
            epoch.cut_off = job.result is None
            epoch.whole.update(result.partition for result in results if result.whole)
            if epoch.cut_off:  # its tasks told nothing
                epoch.whole.update(coordinator.whole(epoch.job))
            epoch.left = frozenset(result.partition for result in results if not result.over)
            epoch.missed.update(coordinator.node_of(epoch.job, result.partition) for result in results if result.missed)
        if epoch.left and self._offers.busy:
            epoch.made_way = True
            self._wait(lambda: not self._offers.busy)
        if epoch.left or coordinator.unfinished(epoch.job) or epoch.round != coordinator.round:
            return False
        self._watch(EpochEnds(coordinator), stall=epoch.feed_timeout)
        return epoch.round == coordinator.round

    def _end_epoch(self, number: int) -> None:
        epoch = self._history.get(number)
        job, turn = (epoch.job, epoch.round) if epoch is not None else ("", self._coordinator.round)
        self._coordinator.end_epoch(job, number, turn, ORDER_TIMEOUT)

    def _give_up(self, number: int) -> None:
        """The newest epoch has failed, and is not run again: the next one has its number, unless nodes have come through it."""
        with self._coordinator.changed:
            if all(state.at <= number for state in self._coordinator.nodes.values()):
                self._epochs = number
            self._history.pop(number, None)

    def _keep(self, kind: str | None, limit: int) -> None:
        """The nodes keep what they are fed from here on, or give it up."""
        if kind is not None or self._keeping:
            self._order(lambda number: m.KeepEpoch(number, kind or "", limit))  # type: ignore[arg-type]
        self._keeping = kind is not None
