"""The handle on a running cluster: start, feed, infer, shutdown."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

from tfos_fast import errors
from tfos_fast.cluster import messages as m
from tfos_fast.cluster.coordinator import Coordinator
from tfos_fast.cluster.ending import stop_agents
from tfos_fast.cluster.feeder import Feeder
from tfos_fast.cluster.frames import check_data, infer_frame, is_frame
from tfos_fast.cluster.inferrer import Inferrer
from tfos_fast.cluster.jobs import SparkJob, exception_of, job_exception
from tfos_fast.cluster.launch import Handing, pickle_main
from tfos_fast.cluster.named import check_name
from tfos_fast.cluster.offers import Offer, Offers
from tfos_fast.cluster.placement import Slots, count_slots
from tfos_fast.cluster.replay import Replay, check_keep, epoch_seed
from tfos_fast.cluster.report import FeedReport
from tfos_fast.cluster.source import source_of
from tfos_fast.cluster.splits import Order
from tfos_fast.cluster.states import NodeState, stuck
from tfos_fast.cluster.stored import loads_of, pickled_batches
from tfos_fast.errors import ClusterError, ClusterTimeout, TfosError

log = logging.getLogger("tfos_fast.cluster")

THREE_DAYS = 259200.0


class InputMode(IntEnum):
    """Where the rows come from.

    TENSORFLOW: ``main`` reads its data itself. SPARK: Spark tasks feed it.
    """

    TENSORFLOW = 0
    SPARK = 1


class Cluster:
    """Nodes that run a TensorFlow program, and their feed. Made by :func:`reserve` or :func:`run`.

    It is a context manager: leaving the block shuts down, and after an exception stops the nodes without waiting for them.

    Attributes
    ----------
    nodes : tuple of NodeInfo
        In the order of their names, ``worker:0`` first.
    """

    def __init__(
        self,
        sc: Any,
        coordinator: Coordinator,
        nodes: tuple[m.NodeInfo, ...],
        slots: Slots,
        *,
        log_level: str,
        start_timeout: float,
    ) -> None:
        self.sc = sc
        self.nodes = nodes
        self.input_mode = InputMode.SPARK
        self._coordinator = coordinator
        self._slots = slots
        self._log_level = log_level
        self._start_timeout = start_timeout
        self._running = False
        self._closed = False
        self._told = False  # the failure was raised once
        self._feeds = 0
        self._keeping = False
        self._offers = Offers(sc, coordinator, nodes, lambda data, feeder: source_of(sc, data).action(feeder))

    # ---- start ---------------------------------------------------------------------------------------------------------------

    def start(self, main: Callable[..., Any], args: Any = None, *, input_mode: InputMode = InputMode.SPARK) -> None:
        """Run ``main(args, ctx)`` on every node, in a fresh Python process with the Spark worker's surroundings.

        Parameters
        ----------
        main : callable
            Pickled with cloudpickle. Broadcast variables in it keep working.
        args : object
            A list also becomes ``sys.argv`` of the process.
        input_mode : InputMode

        Raises
        ------
        MainNotPicklable
        NodeFailed
        ClusterTimeout
        """
        self._check()
        if self._running:
            raise ClusterError("the cluster has been started already")
        payload, broadcasts = pickle_main(self.sc, main, args)
        spec = {"worker": [node.endpoint for node in self.nodes]}
        deadline = time.monotonic() + self._start_timeout
        states = self._coordinator.nodes
        attempt = 0
        while missing := tuple(node for node in self.nodes if not states[node.name].started):
            if time.monotonic() > deadline:
                names = ", ".join(f"{node.name} on {node.host}" for node in missing)
                raise ClusterTimeout(f"no Spark task that could start them came to {names} within {self._start_timeout:g} s")
            self._hand_over(missing, spec, payload, broadcasts, attempt)
            with contextlib.suppress(ClusterTimeout):
                self._coordinator.wait(lambda: all(states[n.name].started for n in self.nodes) or self._failed, 2.0, "")
            self._check()
            attempt += 1
        self.input_mode = input_mode
        self._running = True

    def _hand_over(
        self, missing: tuple[m.NodeInfo, ...], spec: dict[str, list[str]], payload: bytes, broadcasts: list[Any], attempt: int
    ) -> None:
        slots = self._slots if self._slots.local else count_slots(self.sc)
        # Spark deals tasks out to executors in turn: with a task for each slot, each executor with a free one gets its turn.
        tasks = 1 if slots.local else max(slots.tasks, 1)
        ids = tuple(variable._jbroadcast.id() for variable in broadcasts)
        task = Handing(missing, spec, payload, ids, self._log_level, attempt > 0, 0.0 if tasks == 1 else 0.3)

        def action() -> list[str]:
            # Which broadcast variables go with a job is noted per thread while its function is pickled.
            for variable in broadcasts:
                self.sc._pickled_broadcast_vars.add(variable)
            return self.sc.parallelize(range(tasks), tasks).mapPartitions(task).collect()

        self._watch(SparkJob(self.sc, "start main", action, self._coordinator.changed), timeout=self._start_timeout)

    # ---- feed ----------------------------------------------------------------------------------------------------------------

    def feed(
        self,
        data: Any,
        epochs: int = 1,
        *,
        keep: str | None = None,
        keep_limit: int | str | None = None,
        shuffle: bool = False,
        seed: int | None = None,
        feed_timeout: float = 600.0,
    ) -> FeedReport:
        """Feed every row to the nodes; returns when a trainer's process has taken each.

        Each epoch is one Spark job over ``data``. Rows of a partition go to one node, in order; a task that is tried again
        skips what was delivered before. A node whose ``main`` returns, or calls ``terminate()``, ends early: what was queued
        for it is dropped and told in the report.

        Parameters
        ----------
        data : RDD, DataFrame or Parquet
            A DataFrame goes as Arrow batches, without passing through Python rows; an RDD that Spark stores as pickled batches
            (cached, checkpointed, or from ``parallelize``, ``repartition``, ``union``) is read from these without unpickling;
            files of :func:`tfos_fast.parquet` are read by the tasks without the JVM.
        epochs : int
        keep : {"memory", "disk"}, optional
            Only the first epoch is a Spark job. Each trainer keeps the packed rows that it got, in memory or in an unlinked file in
            Spark's local folder (``spark.local.dir``), and gets them from there later: a node has the same rows in each epoch.
            Batches alias what is kept, and writing into them changes nothing for the next epoch. It is given up with the feed.
        keep_limit : int or str, optional
            Bytes that a node may keep, as ``"4g"``. Default: half of the memory (of the container or machine) or disk that is free
            when the feed begins. What does not fit raises NotEnoughMemory or StoreFull in the trainer, and so NodeFailed here.
        shuffle : bool
            A new order of the partitions in each epoch, without a Spark shuffle: the tasks of the epoch's job are launched in that
            order. A task that prefers the executor that has its partition cached may be launched earlier or later, and such a
            partition stays with its executor's node. Rows inside a partition keep their order: mix them in ``main``. With ``keep``
            later epochs replay the kept slots in a new order each, and the batches in neighbouring slots mixed.
        seed : int, optional
            Gives the same orders each time. Without it every feed has orders of its own.
        feed_timeout : float
            Seconds without any movement, though rows wait, after which the feed is given up.

        Returns
        -------
        FeedReport

        Raises
        ------
        NodeFailed
            ``main`` raised; carries the remote traceback. :class:`NodeKilled` when a process was killed.
        StallTimeout
        SchemaMismatch, RowTooLarge, NoNodeOnHost
            A feed task could not go on.
        SourceError
            Files cannot be read.
        """
        check_data(data, "feed")
        self._check(running="feed")
        if epochs < 1:
            raise ValueError(f"epochs must be 1 or more, not {epochs}")
        limit = check_keep(keep, keep_limit)
        source = source_of(self.sc, data)
        seed = secrets.randbits(62) if seed is None else seed
        self._keep(keep if epochs > 1 else None, limit)
        self._feeds += 1
        begin = time.monotonic()
        states = self._coordinator.nodes
        before = {name: state.rows_taken for name, state in states.items()}
        partitions = epoch = 0
        made_way = False
        for epoch in range(epochs):
            if keep is not None and epoch:
                replay = Replay(self._coordinator, states, epoch_seed(seed, epoch) if shuffle else None)
                self._watch(replay, stall=feed_timeout)
                self._order(m.EndEpoch)
                if not any(state.eats for state in states.values()):
                    break
                continue
            job_name = f"feed{self._feeds}/{epoch}"
            order = Order(seed, epoch) if shuffle else None
            only: frozenset[int] | None = None
            while only is None or only:
                action = source.action(Feeder(self.nodes, job_name, feed_timeout, order.turn if order else 0, only=only), order)
                job = SparkJob(self.sc, f"feed {self._feeds}, epoch {epoch + 1} of {epochs}", action, self._coordinator.changed)
                self._watch(job, stall=feed_timeout)
                only = frozenset(number for number, _, whole in job.result or () if not whole)
                if only:  # they made way for a named feed
                    self._wait(lambda: not self._offers.busy)
                    made_way = True
            partitions += self._coordinator.end_job(job_name)[0]
            self._order(m.EndEpoch)
            if not any(state.eats for state in states.values()):
                break
        self._check()
        self._keep(None, 0)
        if made_way:
            self._wait_taken()
        report = FeedReport(
            rows=sum(state.rows_taken - before[name] for name, state in states.items()),
            seconds=time.monotonic() - begin,
            epochs=epoch + 1,
            partitions=partitions,
            rows_of_node={node.name: states[node.name].rows_taken - before[node.name] for node in self.nodes},
            ended_early={node.name: states[node.name].why_early for node in self.nodes if not states[node.name].eats},
            rows_left={node.name: states[node.name].rows_left for node in self.nodes if states[node.name].rows_left},
        )
        if report.ended_early:
            log.warning("the feed ended early at some nodes: %s", report)
        return report

    def _keep(self, kind: Any, limit: int) -> None:
        """The nodes keep what they are fed from here on, or give it up."""
        if kind is not None or self._keeping:
            self._order(lambda number: m.Keep(number, kind or "", limit))
        self._keeping = kind is not None

    def offer(self, data: Any, name: str, *, together: float = 30.0, feed_timeout: float = 600.0) -> None:
        """Offer data as a named feed, for validation beside training. Returns at once.

        Readers start its epochs: when a program begins the next iteration of ``ctx.get_data_feed(name=name).dataset(...)``, the
        data is evaluated by one Spark job and dealt to the nodes that ask. The first one that asks waits for the others that
        read this feed (``together``); who comes later gets an evaluation of its own. Every row comes once in an
        evaluation. Meanwhile tasks of ``feed()`` that only wait for their trainers end early, and are continued afterwards. Demands
        are served until every ``main`` has returned.

        Parameters
        ----------
        data : RDD or DataFrame
        name : str
        together : float
            Seconds that the first node that asks waits for the others: at first for every node, later for those of the evaluation
            before. Make it short where only some nodes read this feed, or nodes ask at different times.
        feed_timeout : float
            Seconds without any movement after which an evaluation is given up.
        """
        check_data(data, "offer")
        self._check(running="offer")
        self._offers.add(Offer(check_name(name), data, feed_timeout, together))

    def train(self, data: Any, num_epochs: int = 1, *, feed_timeout: float = 600.0) -> FeedReport:
        """Another name of :meth:`feed`."""
        return self.feed(data, num_epochs, feed_timeout=feed_timeout)

    def infer(
        self,
        data: Any,
        *,
        schema: Any = None,
        keep: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        feed_timeout: float = 600.0,
    ) -> Any:
        """Results of ``main`` for every row, in order, one for one; lazily, as Spark's transformations are.

        Parameters
        ----------
        data : RDD or DataFrame
        schema : StructType or str, optional
            Columns of the results, for a DataFrame. Without it some first rows are sent through ``main`` at once, and the columns
            are those of their results: names of a Row or dict, ``_1``, ``_2``, ... of a tuple, ``result`` of a single value.
        keep : sequence of str, optional
            Columns of the DataFrame that go before the results, unchanged.
        columns : sequence of str, optional
            Columns of the DataFrame that ``main`` gets; default: all of them, kept ones too.
        feed_timeout : float
            Seconds without any movement, though rows wait, after which a task is given up.

        Returns
        -------
        RDD or DataFrame
            As ``data`` was. It can be evaluated as often as you like, until the cluster is shut down. When ``main`` fails, the
            action that evaluates it raises Spark's error; leaving the cluster's ``with`` block then raises what has happened.
        """
        check_data(data, "infer")
        self._check(running="infer")
        inferrer = Inferrer(self.nodes, feed_timeout)
        if is_frame(data):
            return infer_frame(data, inferrer, schema, columns, keep)
        if schema is not None or keep is not None or columns is not None:
            raise TypeError("infer(schema=, keep=, columns=) are for DataFrames; the results of an RDD are an RDD")
        batches = pickled_batches(data)
        if batches is not None:
            return batches.mapPartitionsWithIndex(inferrer.pickled(loads_of(data)))
        return data.mapPartitionsWithIndex(inferrer.rows, preservesPartitioning=False)

    inference = infer

    # ---- the end -------------------------------------------------------------------------------------------------------------

    def shutdown(self, grace_secs: float = 0.0, timeout: float = THREE_DAYS) -> None:
        """End the feed, wait for every ``main`` to return, stop the nodes, and see that no process of theirs is left.

        Parameters
        ----------
        grace_secs : float
            Seconds that the nodes are kept after every ``main`` has returned.
        timeout : float
            Seconds to wait for every ``main``; then they are killed.

        Raises
        ------
        NodeFailed
            A ``main`` raised after the last feed. What a feed has already raised is not raised again.
        ClusterTimeout
        """
        if self._closed:
            return
        try:
            if self._running and not self._failed:
                self._order(m.EndFeed)
                self._offers.end()
                states = self._coordinator.nodes
                busy = lambda: [s.name for s in states.values() if not (s.ended or s.gone)]  # noqa: E731
                try:
                    over = lambda: self._failed or self._offers.error is not None or not busy()  # noqa: E731
                    self._coordinator.wait(over, timeout, "the driver waits for main to return")
                except ClusterTimeout as error:
                    raise ClusterTimeout(f"{error}: {', '.join(busy())} still run; they are killed now") from None
                if grace_secs and not self._failed:
                    with contextlib.suppress(ClusterTimeout):
                        self._coordinator.wait(lambda: self._failed, grace_secs, "")
            self._raise_failure()
        finally:
            self.abort()

    def abort(self) -> None:
        """Stop the nodes now, whatever they do, and see that no process of theirs is left. Raises nothing about them."""
        if self._closed:
            return
        self._closed = True
        self._offers.stop()
        stop_agents(self._coordinator)
        self._coordinator.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.shutdown()
            return
        try:
            # An action on an inference fails with Spark's error: what stands behind it is said here.
            ours = self._explain(error) if isinstance(error, Exception) and not isinstance(error, TfosError) else error
        finally:
            self.abort()
        if ours is not error:
            raise ours from error

    # ---- watching ------------------------------------------------------------------------------------------------------------

    @property
    def _failed(self) -> bool:
        return self._coordinator.failure is not None

    def _raise_failure(self) -> None:
        failure = self._coordinator.failure
        if failure is not None and not self._told:
            self._told = True
            raise exception_of(failure)
        if self._offers.error is not None and not self._told:
            self._told = True
            raise self._explain(self._offers.error)

    def _check(self, running: str = "") -> None:
        if self._closed:
            raise ClusterError("the cluster was shut down")
        self._raise_failure()
        if self._failed:
            assert self._coordinator.failure is not None
            raise ClusterError(f"the cluster has failed before: {self._coordinator.failure.summary}")
        if running and not self._running:
            raise ClusterError(f"no program runs on the cluster yet: call cluster.start(main, args) before {running}")
        if running and self.input_mode is not InputMode.SPARK:
            raise ClusterError(f"{running} needs InputMode.SPARK; with InputMode.TENSORFLOW main reads its data itself")

    def _order(self, make: Callable[[int], m.Order]) -> None:
        self._coordinator.order([node.name for node in self.nodes], make, 60.0)

    def _wait_taken(self) -> None:
        """Wait for the rows of tasks that made way: these did not wait for their reader themselves."""
        states = self._coordinator.nodes.values()
        before = {state.name: state.beat for state in states}

        def taken(state: NodeState) -> bool:
            beat = state.beat
            if not state.eats:
                return True
            return beat is not None and beat is not before[state.name] and beat.rows_taken == beat.rows_published

        self._wait(lambda: all(taken(state) for state in states))

    def _wait(self, condition: Callable[[], bool]) -> None:
        eats = lambda: any(state.eats for state in self._coordinator.nodes.values())  # noqa: E731
        over = lambda: self._failed or self._offers.error is not None or not eats() or condition()  # noqa: E731
        self._coordinator.wait(over, THREE_DAYS, "the driver waits for the evaluation of a named feed")
        self._raise_failure()

    def _watch(self, job: SparkJob | Replay, *, timeout: float | None = None, stall: float | None = None) -> None:
        """Wait for a Spark job and look after the nodes; it is cancelled when one fails, all have ended, or nothing moves."""
        begin = moved = time.monotonic()
        progress: list[int] = []
        changed = self._coordinator.changed
        states = self._coordinator.nodes
        try:
            while not job.done:
                with changed:
                    if not job.done:
                        changed.wait(0.5)
                self._raise_failure()
                now = time.monotonic()
                if stall is not None and not any(state.eats for state in states.values()):
                    job.cancel()
                    return
                beats = [state.beat for state in states.values() if state.beat is not None]
                if [beat.progress for beat in beats] != progress:
                    progress, moved = [beat.progress for beat in beats], now
                if stall is not None and now - moved > stall and (who := stuck(states.values())):
                    raise errors.StallTimeout(f"nothing moved for {now - moved:.0f} s: {who}. The setting is feed_timeout.")
                if timeout is not None and now - begin > timeout:
                    raise ClusterTimeout(f"the driver waits for Spark to run a job ({timeout:g} s)")
        except BaseException:  # Ctrl-C, too
            job.cancel()
            raise
        if job.error is not None:
            raise self._explain(job.error)

    def _explain(self, error: Exception) -> Exception:
        """The error of a Spark job in our words, if it came from a task or node of ours; else as it is."""
        error = job_exception(error)
        if isinstance(error, errors.PeerDied | errors.NodeFailed | errors.NoNodeOnHost):
            # The coordinator knows better what has happened, or will in a moment.
            with contextlib.suppress(ClusterTimeout):
                self._coordinator.wait(lambda: self._failed, 3.0, "")
            failure = self._coordinator.failure
            if failure is not None and not self._told:
                self._told = True
                return exception_of(failure)
        return error
