"""The lifecycle: reserve, start, feed, infer, shutdown."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import msgspec

from tfos_fast import errors
from tfos_fast.cluster import messages as m
from tfos_fast.cluster.coordinator import Coordinator, NodeState, is_gone
from tfos_fast.cluster.environment import driver_broadcasts
from tfos_fast.cluster.feeder import Feeder, Inferrer
from tfos_fast.cluster.jobs import SparkJob, exception_of, job_exception
from tfos_fast.cluster.launch import Handing, Reservation
from tfos_fast.cluster.machine import machine_id, this_process
from tfos_fast.cluster.placement import Slots, count_slots, preflight, spreading_profile
from tfos_fast.cluster.report import FeedReport
from tfos_fast.errors import ClusterError, ClusterTimeout, MainNotPicklable

log = logging.getLogger("tfos_fast.cluster")

STOP_TIMEOUT = 15.0
THREE_DAYS = 259200.0


class InputMode(IntEnum):
    """Where the rows come from.

    TENSORFLOW: ``main`` reads its data itself. SPARK: Spark tasks feed it.
    """

    TENSORFLOW = 0
    SPARK = 1


def reserve(
    sc: Any,
    num_executors: int,
    *,
    memory: int | str = "256m",
    slot_bytes: int | str | None = None,
    reservation_timeout: float = 60.0,
    log_level: str = "WARNING",
) -> Cluster:
    """Reserve nodes: one agent process with its shared memory each, on an executor of its own as far as there are so many.

    Parameters
    ----------
    sc : SparkContext
    num_executors : int
        Number of nodes.
    memory : int or str
        Bytes of shared memory of each node, such as ``"256m"``. Taken at once, never more.
    slot_bytes : int or str, optional
        Bytes of one slot of that memory; the largest row must fit into one.
    reservation_timeout : float
        Seconds to wait for executors to register and for the nodes to come up.
    log_level : str
        Of the agents and trainers; their logs are in the executors' stderr.

    Returns
    -------
    Cluster
        Without a program yet; see :meth:`Cluster.start`.

    Raises
    ------
    NotEnoughSlots
        Spark has fewer task slots than nodes are asked for; known before any job is run.
    NotEnoughMemory
        The shared memory does not fit on some executor.
    ClusterTimeout
    """
    if num_executors < 1:
        raise ValueError(f"num_executors must be 1 or more, not {num_executors}")
    slots = preflight(sc, num_executors, reservation_timeout)
    coordinator = _coordinator(sc)
    task = Reservation(
        coordinator.keys, this_process(), str(memory), None if slot_bytes is None else str(slot_bytes), log_level
    )

    def action() -> list[bytes]:
        rdd = sc.parallelize(range(num_executors), num_executors).barrier().mapPartitionsWithIndex(task)
        profile = spreading_profile(sc, slots, num_executors)
        return (rdd.withResources(profile) if profile is not None else rdd).collect()

    try:
        job = SparkJob(sc, f"reserve {num_executors} nodes", action, coordinator.changed)
        try:
            who = f"the driver waits for Spark to run {num_executors} tasks at once, which bring up the nodes (reservation_timeout)"
            coordinator.wait(lambda: job.done, reservation_timeout, who)
        except BaseException:
            job.cancel()
            raise
        if job.error is not None:
            raise job_exception(job.error)
        answers = [msgspec.json.decode(answer, type=m.Ready) for answer in job.result]
        for answer in answers:
            if answer.node is None:
                raise getattr(errors, answer.kind, ClusterError)(answer.text)
        nodes = tuple(answer.node for answer in answers if answer.node is not None)
        coordinator.expect({node.name: node.token for node in nodes})
        coordinator.wait(
            lambda: all(node.name in coordinator.nodes for node in nodes),
            reservation_timeout,
            f"the driver waits for the agents to connect to {coordinator.keys.endpoint} (spark.driver.host)",
        )
    except BaseException:
        _stop_agents(coordinator, STOP_TIMEOUT)
        coordinator.close()
        raise
    return Cluster(sc, coordinator, nodes, slots, log_level=log_level, start_timeout=reservation_timeout)


def run(
    sc: Any,
    main: Callable[..., Any],
    args: Any,
    num_executors: int,
    *,
    input_mode: InputMode = InputMode.SPARK,
    **settings: Any,
) -> Cluster:
    """Reserve nodes and start ``main(args, ctx)`` on each.

    Parameters
    ----------
    sc, num_executors
        As for :func:`reserve`.
    main, args
        As for :meth:`Cluster.start`.
    input_mode : InputMode
    **settings
        Further settings of :func:`reserve`.
    """
    cluster = reserve(sc, num_executors, **settings)
    try:
        cluster.start(main, args, input_mode=input_mode)
    except BaseException:
        cluster.abort()
        raise
    return cluster


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
        payload, broadcasts = _pickle(self.sc, main, args)
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

    def feed(self, data: Any, epochs: int = 1, *, feed_timeout: float = 600.0) -> FeedReport:
        """Feed every row to the nodes; returns when a trainer's process has taken each.

        Each epoch is one Spark job over ``data``. Rows of a partition go to one node, in order; a task that is tried again
        skips what was delivered before. A node whose ``main`` returns, or calls ``terminate()``, ends early: what was queued
        for it is dropped and told in the report.

        Parameters
        ----------
        data : RDD or DataFrame
            A DataFrame goes as Arrow batches, without passing through Python rows.
        epochs : int
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
        """
        self._check(running="feed")
        if epochs < 1:
            raise ValueError(f"epochs must be 1 or more, not {epochs}")
        self._feeds += 1
        begin = time.monotonic()
        states = self._coordinator.nodes
        before = {name: state.rows_taken for name, state in states.items()}
        partitions = epoch = 0
        for epoch in range(epochs):
            job_name = f"feed{self._feeds}/{epoch}"
            action = _feed_action(data, Feeder(self.nodes, job_name, feed_timeout))
            job = SparkJob(self.sc, f"feed {self._feeds}, epoch {epoch + 1} of {epochs}", action, self._coordinator.changed)
            self._watch(job, stall=feed_timeout)
            partitions += self._coordinator.end_job(job_name)[0]
            self._order(m.EndEpoch)
            if not any(state.eats for state in states.values()):
                break
        self._check()
        report = FeedReport(
            rows=sum(state.rows_taken - before[name] for name, state in states.items()),
            seconds=time.monotonic() - begin,
            epochs=epoch + 1,
            partitions=partitions,
            rows_of_node={node.name: states[node.name].rows_taken - before[node.name] for node in self.nodes},
            ended_early={node.name: _why_early(states[node.name]) for node in self.nodes if not states[node.name].eats},
            rows_left={node.name: states[node.name].rows_left for node in self.nodes if states[node.name].rows_left},
        )
        if report.ended_early:
            log.warning("the feed ended early at some nodes: %s", report)
        return report

    def train(self, data: Any, num_epochs: int = 1, *, feed_timeout: float = 600.0) -> FeedReport:
        """Another name of :meth:`feed`."""
        return self.feed(data, num_epochs, feed_timeout=feed_timeout)

    def infer(self, data: Any, *, schema: Any = None, feed_timeout: float = 600.0) -> Any:
        """Results of ``main`` for every row, in order, one for one; lazily, as Spark's transformations are.

        Parameters
        ----------
        data : RDD or DataFrame
        schema : StructType or str, optional
            Columns of the results, for a DataFrame. Without it some first rows are sent through ``main`` at once, and the columns
            are those of their results: names of a Row or dict, ``_1``, ``_2``, ... of a tuple, ``result`` of a single value.
        feed_timeout : float
            Seconds without any movement, though rows wait, after which a task is given up.

        Returns
        -------
        RDD or DataFrame
            As ``data`` was. It can be evaluated as often as you like, until the cluster is shut down.
        """
        self._check(running="infer")
        from tfos_fast.cluster.frames import infer_frame, is_frame

        inferrer = Inferrer(self.nodes, feed_timeout)
        if is_frame(data):
            return infer_frame(data, inferrer, schema)
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
                states = self._coordinator.nodes
                busy = lambda: [s.name for s in states.values() if not (s.ended or s.gone)]  # noqa: E731
                try:
                    self._coordinator.wait(lambda: self._failed or not busy(), timeout, "the driver waits for main to return")
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
        _stop_agents(self._coordinator, STOP_TIMEOUT)
        self._coordinator.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.shutdown()
        else:
            self.abort()

    # ---- watching ------------------------------------------------------------------------------------------------------------

    @property
    def _failed(self) -> bool:
        return self._coordinator.failure is not None

    def _raise_failure(self) -> None:
        failure = self._coordinator.failure
        if failure is not None and not self._told:
            self._told = True
            raise exception_of(failure)

    def _check(self, running: str = "") -> None:
        if self._closed:
            raise ClusterError("the cluster was shut down")
        self._raise_failure()
        if self._failed:
            assert self._coordinator.failure is not None
            raise ClusterError(f"the cluster has failed before: {self._coordinator.failure.summary}")
        if running and not self._running:
            raise ClusterError(f"start main before {running}")
        if running and self.input_mode is not InputMode.SPARK:
            raise ClusterError(f"{running} needs InputMode.SPARK; with InputMode.TENSORFLOW main reads its data itself")

    def _order(self, make: type[m.EndEpoch] | type[m.EndFeed]) -> None:
        self._coordinator.order([node.name for node in self.nodes], make, 60.0)

    def _watch(self, job: SparkJob, *, timeout: float | None = None, stall: float | None = None) -> None:
        """Wait for a Spark job while looking after the nodes; cancels it when one fails, when all have ended, when nothing moves."""
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
                if stall is not None and now - moved > stall and (stuck := _stuck(states)):
                    raise errors.StallTimeout(f"nothing moved for {now - moved:.0f} s: {stuck}. The setting is feed_timeout.")
                if timeout is not None and now - begin > timeout:
                    raise ClusterTimeout(f"the driver waits for Spark to run a job ({timeout:g} s)")
        except BaseException:  # Ctrl-C, too
            job.cancel()
            raise
        if job.error is None:
            return
        error = job_exception(job.error)
        if isinstance(error, errors.PeerDied | errors.NodeFailed | errors.NoNodeOnHost):
            # The coordinator knows better what has happened, or will in a moment.
            with contextlib.suppress(ClusterTimeout):
                self._coordinator.wait(lambda: self._failed, 3.0, "")
            self._raise_failure()
        raise error


# ---- helpers -----------------------------------------------------------------------------------------------------------------


def _coordinator(sc: Any) -> Coordinator:
    if sc._jsc.sc().isLocal():
        return Coordinator("127.0.0.1", "127.0.0.1")
    conf = sc.getConf()
    advertise = conf.get("spark.driver.host", socket.gethostname())
    bind = conf.get("spark.driver.bindAddress", advertise)
    try:
        return Coordinator(socket.gethostbyname(bind), advertise)
    except OSError:  # zmq.ZMQError is one: that address is none of this host's, as behind a NAT
        return Coordinator("0.0.0.0", advertise)


def _pickle(sc: Any, main: Callable[..., Any], args: Any) -> tuple[bytes, list[Any]]:
    """``(main, args)`` pickled, and the broadcast variables in them."""
    import cloudpickle

    if not callable(main):
        raise MainNotPicklable(f"main must be a function main(args, ctx), not {main!r}")
    sc._pickled_broadcast_vars.clear()
    try:
        payload = cloudpickle.dumps((main, args))
        return payload, driver_broadcasts(sc)
    except Exception as error:
        name = getattr(main, "__qualname__", repr(main))
        raise MainNotPicklable(
            f"{name} or its arguments cannot be sent to the executors: {error}. Make such objects (sessions, locks, files, the "
            "SparkContext) inside main, not around it."
        ) from error
    finally:
        sc._pickled_broadcast_vars.clear()


def _feed_action(data: Any, feeder: Feeder) -> Callable[[], Any]:
    from tfos_fast.cluster.frames import is_frame

    if is_frame(data):
        return lambda: data.mapInArrow(feeder.batches, "partition int, rows long").collect()
    return lambda: data.mapPartitionsWithIndex(feeder.rows).collect()


def _why_early(state: NodeState) -> str:
    return "ended: main returned" if state.ended else "called terminate()" if state.terminated else "is gone"


def _stuck(states: dict[str, NodeState]) -> str:
    """Who waits for whom, when feed tasks wait; empty when they do not."""
    lines = []
    for state in states.values():
        beat = state.beat
        if beat is None or not state.eats:
            continue
        trainer = f"its trainer (process {state.trainer.pid})" if state.trainer else "its trainer"
        if beat.writers and not beat.reader:
            lines.append(f"{beat.writers} feed tasks wait for {state.name} on {state.host}, where {trainer} does not read")
        elif beat.waiting:
            left = beat.rows_published - beat.rows_taken
            lines.append(f"{beat.waiting} feed tasks wait for {state.name} on {state.host}, where {trainer} leaves {left} rows")
    return "; ".join(lines)


def _stop_agents(coordinator: Coordinator, timeout: float) -> None:
    """Stop the agents and see that they and their trainers are gone; what does not go on this machine is killed."""
    machine = machine_id()
    coordinator.stop_nodes()

    def left() -> list[m.Process]:
        alive = []
        for state in coordinator.nodes.values():
            for process in (state.agent, state.trainer):
                if process is None:
                    continue
                gone = is_gone(process, machine)
                if gone is False or (gone is None and not state.gone):
                    alive.append(process)
        return alive

    try:
        coordinator.wait(lambda: not left(), timeout, "the driver waits for the nodes to stop")
    except ClusterTimeout:
        for process in left():
            log.warning("process %d of a node did not end and is killed", process.pid)
            if is_gone(process, machine) is False:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
