"""The handle on a running cluster: start and shutdown. Feeding it is in ``feed.py``, watching it in ``watch.py``."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from tfos_fast.cluster.coordinator.node_state import behind_main, held_trainer, lingers
from tfos_fast.cluster.coordinator.restarts import Restarts
from tfos_fast.cluster.driver.feed import Feeding
from tfos_fast.cluster.driver.report import ShutdownReport, shutdown_report
from tfos_fast.cluster.driver.seconds import seconds
from tfos_fast.cluster.driver.stop_nodes import stop_agents
from tfos_fast.cluster.driver.watch import THREE_DAYS, InputMode
from tfos_fast.cluster.launch import driver_nodes
from tfos_fast.cluster.launch.reserve_task import StartMain, pickle_main
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.failures import root_first
from tfos_fast.cluster.protocol.identity import this_process
from tfos_fast.cluster.protocol.keys import ClusterKeys
from tfos_fast.cluster.protocol.roles import CHIEFS, FED, cluster_spec
from tfos_fast.cluster.spark.jobs import SparkJob
from tfos_fast.errors import ClusterError, ClusterTimeout, StallTimeout, TfosError

log = logging.getLogger("tfos_fast.cluster")

EXIT_WAIT = 30.0  # seconds that a driver without shutdown() waits for main to return
EXIT_TIMEOUT = 60.0  # seconds that a process may take to end when its main has returned
STOPPING = 60.0  # seconds that a second call waits for the one that stops the nodes
SAY_AFTER = 5.0  # seconds after which the driver says so


def check_restarts(max_restarts: int, restart: str) -> None:
    """Refuse values that mean nothing.

    Raises
    ------
    ValueError
    """
    number = isinstance(max_restarts, int) and not isinstance(max_restarts, bool)
    if not number or max_restarts < 0 or restart not in ("node", "group"):
        raise ValueError(f"max_restarts={max_restarts!r} is 0 or more, and restart={restart!r} is 'node' or 'group'")


class Cluster(Feeding):
    """Nodes that run a TensorFlow program, and their feed. Made by :func:`reserve` or :func:`run`.

    It is a context manager: leaving the block shuts down, and after an exception stops the nodes without waiting for them.

    Attributes
    ----------
    nodes : tuple of NodeInfo
        In the order of their numbers: ps, chief or master, evaluator, workers.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._report = ShutdownReport({})
        self._pid = os.getpid()
        self._stopped = threading.Event()  # the nodes are, and there is a report
        self._stopper = 0  # thread that stops them
        atexit.register(self._at_exit)

    # ---- start ---------------------------------------------------------------------------------------------------------------

    def start(
        self,
        main: Callable[..., Any],
        args: Any = None,
        *,
        input_mode: InputMode = InputMode.SPARK,
        tensorboard: bool = False,
        log_dir: str | None = None,
        max_restarts: int = 0,
        restart: Literal["node", "group"] = "node",
    ) -> None:
        """Run ``main(args, ctx)`` on every node, in a fresh Python process with the Spark worker's surroundings.

        Parameters
        ----------
        main : callable
            Pickled with cloudpickle, and sent along with the lines of the files that its own code is from. Broadcast variables in
            it keep working.
        args : object
            A list also becomes ``sys.argv`` of the process.
        input_mode : InputMode
        tensorboard : bool
            Run TensorBoard beside ``main`` at the chief or master, or the first worker; :meth:`tensorboard_url` tells where.
        log_dir : str, optional
            Its folder of logs, relative to the folder in which ``main`` runs; default ``tensorboard_<executor_id>`` there.
        max_restarts : int
            So often ``main`` is started again, with the same role, port and environment, when it has raised or its process was
            killed: ``ctx.restarts`` counts. It has to go on from its own checkpoint, and gets again the rows that came after its
            last ``feed.commit()``.
        restart : {"node", "group"}
            Who is started again: the node that failed, so often for each; or all together, so often in all, for synchronous
            training whose nodes cannot go on without each other. Nodes whose feeds go in step (``uneven=``) are always a group.

        Raises
        ------
        MainNotPicklable
        MissingDependency
            That node has no tensorboard.
        NodeFailed
        ClusterTimeout
        """
        self._check()
        check_restarts(max_restarts, restart)
        self._start(
            pickle_main(self._engine, main, args),
            input_mode=input_mode,
            tensorboard=tensorboard,
            log_dir=log_dir,
            max_restarts=max_restarts,
            restart=restart,
        )

    def _start(
        self,
        packed: tuple[bytes, list[Any]],
        *,
        input_mode: InputMode,
        tensorboard: bool,
        log_dir: str | None,
        max_restarts: int,
        restart: Literal["node", "group"],
    ) -> None:
        """Run what `pickle_main` has packed."""
        if self._running:
            raise ClusterError("the cluster has been started already; reserve another one for another main")
        self._max_restarts = max_restarts
        self._coordinator.restarts = Restarts(max_restarts, restart)
        payload, broadcasts = packed
        feeds = input_mode is InputMode.SPARK
        spec = cluster_spec((node.job_name, node.endpoint) for node in self.nodes)
        deadline = time.monotonic() + self._start_timeout
        states = self._coordinator.nodes
        attempt = 0
        while missing := tuple(node for node in self.nodes if not states[node.name].started):
            if time.monotonic() > deadline:
                names = ", ".join(f"{node.name} on {node.host}" for node in missing)
                raise ClusterTimeout(f"no Spark task that could start them came to {names} within {self._start_timeout:g} s")
            board = self._board(log_dir) if tensorboard else ("", "")
            self._hand_over(missing, spec, payload, broadcasts, attempt, board, max_restarts > 0, feeds)
            with contextlib.suppress(ClusterTimeout):
                self._coordinator.wait(lambda: all(states[n.name].started for n in self.nodes) or self._failed, 2.0, "")
            self._check()
            attempt += 1
        self.input_mode = input_mode
        self._running = True

    def _board(self, log_dir: str | None) -> tuple[str, str]:
        trains = [node for node in self.nodes if node.job_name in FED]
        node = min(trains, key=lambda node: node.job_name not in CHIEFS)
        return node.name, log_dir or f"tensorboard_{node.index}"

    def tensorboard_url(self, node: str = "") -> str | None:
        """Return the URL of TensorBoard, some seconds after the start; None where none runs.

        Parameters
        ----------
        node : str
            The name of a node, for the TensorBoard that runs beside that node alone; any node by default.
        """
        states = self._coordinator.nodes
        return next((state.tensorboard for name, state in states.items() if node in ("", name) and state.tensorboard), None)

    @property
    def keys(self) -> ClusterKeys:
        """Keys with which another process connects to the nodes. Send them only inside Spark's closures."""
        return self._coordinator.keys

    def _hand_over(
        self,
        missing: tuple[m.NodeInfo, ...],
        spec: dict[str, list[str]],
        payload: bytes,
        broadcasts: list[Any],
        attempt: int,
        tensorboard: tuple[str, str],
        restarts: bool,
        feeds: bool,
    ) -> None:
        slots = self._engine.recount(self._slots)
        # Spark deals tasks out to executors in turn: with a task for each slot, each executor with a free one gets its turn.
        tasks = 1 if slots.local else max(slots.tasks, 1)
        ids = tuple(variable._jbroadcast.id() for variable in broadcasts)
        here = tuple(node for node in missing if node.executor == this_process())
        there = tuple(node for node in missing if node not in here)
        hold = 0.0 if tasks == 1 else 0.3
        task = StartMain(there, spec, payload, ids, self._log_level, attempt > 0, tensorboard, hold, restarts, feeds)
        driver_nodes.hand_over(task, here, broadcasts)
        if not there:
            return

        def action() -> list[str]:
            return self._engine.run(task, range(tasks), broadcasts=broadcasts)

        self._watch(SparkJob(self._engine, "start main", action, self._coordinator.changed), timeout=self._start_timeout)

    # ---- the end -------------------------------------------------------------------------------------------------------------

    def shutdown(
        self,
        grace_secs: float = 0.0,
        timeout: float = THREE_DAYS,
        *,
        stall_timeout: float = 600.0,
        exit_timeout: float = EXIT_TIMEOUT,
    ) -> ShutdownReport:
        """End the feed, wait for every ``main`` that trains to return, stop the nodes, and see that no process of theirs is left.

        A ps and an evaluator, and a worker that holds (``ctx.hold()``), serve until then and are not waited for.

        A driver that ends without it does this at its exit, and waits for ``main`` 30 s at most; one that ends with an exception or
        in the middle of a feed stops the nodes at once.

        Parameters
        ----------
        grace_secs : float
            Seconds that the nodes are kept after every ``main`` has returned: time for the evaluator's last evaluation.
        timeout : float
            Seconds to wait for every ``main``; then they are killed.
        stall_timeout : float
            Seconds that a trainer may be stopped (SIGSTOP, or a debugger). One that runs may take its time.
        exit_timeout : float
            Seconds that the process of a ``main`` that has returned may take to end. It waits for threads that are no daemons, and
            for its exit handlers. A warning names it after 5 s; after ``exit_timeout`` it is ended. What its ``main`` did counts.

        Returns
        -------
        ShutdownReport
            How each node ended, what it was fed, and for what it waited. Called again, it gives the same one.

        Raises
        ------
        NodeFailed
            A ``main`` raised after the last feed. What a feed has already raised is not raised again.
        ClusterTimeout
        """
        grace_secs, timeout = seconds(grace_secs, "grace_secs", zero=True), seconds(timeout, "timeout", zero=True)
        stall_timeout, exit_timeout = seconds(stall_timeout, "stall_timeout"), seconds(exit_timeout, "exit_timeout", zero=True)
        self._check_process()
        if self._closed:
            self._await_stopped()
            return self._report
        try:
            if self._running and not self._failed and not self._closed:
                self._end_feed()
                self._offers.end()
                self._wait_for_mains(timeout, stall_timeout, exit_timeout)
                if grace_secs and not self._failed:
                    with contextlib.suppress(ClusterTimeout):
                        self._coordinator.wait(lambda: self._failed, grace_secs, "")
            self._raise_failure()
        finally:
            self.abort()
        return self._report

    def _end_feed(self) -> None:
        """No more rows come, for nodes that have come through all that were fed."""
        self._come_to(self._epochs)
        self._coordinator.end_feed(self._epochs, 60.0)

    def _wait_for_mains(self, timeout: float, stall_timeout: float, exit_timeout: float) -> None:
        states = self._coordinator.nodes.values()
        warned: set[str] = set()

        def busy() -> list[str]:
            waited = [state for state in states if state.fed and behind_main(state) <= exit_timeout]
            return [state.name for state in waited if not (state.ended or state.gone)]

        def warn() -> None:
            for state in states:
                if state.name not in warned and behind_main(state) > min(SAY_AFTER, exit_timeout / 2):
                    warned.add(state.name)
                    words = "%s. It is ended %g s after main returned (exit_timeout of shutdown)"
                    log.warning(words, lingers(state), exit_timeout)

        def again() -> bool:
            """Some node was started again, and waits for rows that it had before, or for the end of the feed."""
            return any(state.eats and not state.feed_ended and not self._coordinator.between(state.name) for state in states)

        def over() -> bool:
            warn()
            held = bool(held_trainer(states, stall_timeout))
            return self._failed or self._offers.error is not None or held or again() or not busy()

        deadline = time.monotonic() + timeout
        try:
            self._coordinator.wait(over, timeout, "the driver waits for main to return")
            while not self._failed and again():
                self._end_feed()
                self._coordinator.wait(over, max(0.0, deadline - time.monotonic()), "the driver waits for main to return")
        except ClusterTimeout as error:
            running = [name for name in busy() if not lingers(self._coordinator.nodes[name])]
            if running:
                raise ClusterTimeout(f"{error}: {', '.join(running)} still run; they are killed now") from None
        if not self._failed and (who := held_trainer(states, stall_timeout)):
            raise StallTimeout(f"the driver waits for main to return: {who}. The setting is stall_timeout.")
        for state in states:
            if not self._failed and (who := lingers(state)):
                state.note = f"{who}: it is ended now, what main has done counts"
                log.warning("%s. The setting is exit_timeout of shutdown", state.note)

    def abort(self) -> None:
        """Stop the nodes now, whatever they do, and see that no process of theirs is left. Raises nothing about them.

        In a process that was forked from the driver it does nothing: the cluster is the driver's.
        """
        if os.getpid() != self._pid:
            return
        with self._coordinator.changed:
            first, self._closed = not self._closed, True
        if not first:
            self._await_stopped()
            return
        self._stopper = threading.get_ident()
        atexit.unregister(self._at_exit)
        self._offers.stop()
        self._inferences.stop()
        stop_agents(self._coordinator)
        self._coordinator.close()
        self._report = shutdown_report(self._coordinator.nodes.values(), root_first(self._coordinator.failures))
        self._stopped.set()

    def _await_stopped(self) -> None:
        """Wait for the thread that stops the nodes, unless this is it: a signal's handler runs in the middle of its work."""
        if self._stopper != threading.get_ident():
            self._stopped.wait(STOPPING)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ClusterError(f"this cluster belongs to process {self._pid}, not to its fork {os.getpid()}: call shutdown() there")

    def _at_exit(self) -> None:
        """The interpreter ends, and nobody has shut down."""
        if self._closed or os.getpid() != self._pid:
            return
        try:
            if self._watched or getattr(sys, "last_value", None) is not None:
                log.warning("the driver ends in the middle of a feed or with an exception: the nodes of its cluster are stopped")
                self.abort()
            else:
                log.warning("the driver ends without shutdown(): it waits up to %g s for main to return", EXIT_WAIT)
                self.shutdown(timeout=EXIT_WAIT)
        except TfosError as error:
            log.error("at the driver's end: %s", error)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if os.getpid() != self._pid:
            return  # a fork leaves the block; the cluster is not its own
        if kind is None:
            self.shutdown()
            return
        try:
            # An action on an inference fails with Spark's error: what stands behind it is said here.
            ours = self._explain(error) if isinstance(error, Exception) and not isinstance(error, TfosError) else error
        finally:
            self.abort()
        if ours is not error:
            # The traceback leads to the user's own line, without Spark's text, which has the same sentence among a hundred lines.
            if isinstance(ours, TfosError):
                ours.spark_error = error
            raise ours.with_traceback(error.__traceback__) from None
