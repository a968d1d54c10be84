"""The coordinator: a thread in the driver that the node agents connect to. It never touches training data.

One thread owns the sockets, says who is a member (``membership.py``) and how far each has come (``progress.py``). Other threads of
the driver read snapshots under a lock, wait on a condition that is notified at every change, and leave requests in a queue that an
eventfd announces.

Agents authenticate by CURVE: the server's public key and one client key pair per cluster travel inside Spark's own task closures,
and whoever does not hold the client's secret key never gets past the handshake. A holder of the key may speak for a node only with
the token of its agent; what it sends is typed and bounded (``cluster/protocol/messages.py``), and what cannot be read is dropped.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import zmq

from tfos_fast.channel.host.descriptors import Descriptors
from tfos_fast.channel.protocol.messages import UNREADABLE
from tfos_fast.channel.protocol.row_spans import Span
from tfos_fast.cluster.coordinator.endpoint import Entrance
from tfos_fast.cluster.coordinator.liveness import LocalAgents
from tfos_fast.cluster.coordinator.membership import Membership
from tfos_fast.cluster.coordinator.node_state import NodeState
from tfos_fast.cluster.coordinator.progress import Ordered, Progress
from tfos_fast.cluster.coordinator.relay_client import RelayedEntrance
from tfos_fast.cluster.coordinator.restarts import Restarts
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.task_news import TaskNews
from tfos_fast.errors import ClusterTimeout

log = logging.getLogger("tfos_fast.cluster")
T = TypeVar("T")

MOST_FEEDS = 256  # named ones that a node may ask for
MOST_ACKS = 4096  # that are remembered of a node
METRICS_TOLD = 2.0  # seconds; TensorBoard hears of the nodes so often
BEATS_TOLD = 0.1  # seconds; counters wake the driver's threads so often at most


class Coordinator:
    """Rendezvous, liveness, errors and the delivery ledger of one cluster.

    Parameters
    ----------
    bind_address : str
        Numeric address to listen on; ``"0.0.0.0"`` for all.
    advertise : str
        Host name or address at which the executors reach the driver.
    ports : sequence of int
        To try in order; 0 is any free one.
    entrance : RelayedEntrance, optional
        Where agents connect, if that is not here: the addresses and ports are not used then.
    """

    def __init__(
        self, bind_address: str, advertise: str, ports: Sequence[int] = (0,), *, entrance: RelayedEntrance | None = None
    ) -> None:
        self.changed = threading.Condition()
        self._requests: deque[Callable[[], object]] = deque()
        self._told = 0.0  # when the driver's threads were last woken
        self._lost = False  # the entrance
        self._news = False  # something else than counters has changed since
        self._board = ""  # name of the node that runs TensorBoard
        self._shown = 0.0  # when that one was last told
        self._looked = 0.0  # when silence was last looked for
        self._local = LocalAgents()
        self._descriptors = Descriptors("the driver", "no agent can connect, and the ends of agents on this host are seen late")
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._pid = os.getpid()

        try:
            self._entrance = entrance or Entrance(bind_address, advertise, ports)
        except OSError:
            os.close(self._wake)
            self._local.close()
            raise
        self._members = Membership(self._local, self._entrance.send)
        self._progress = Progress(self._members)
        self.nodes = self._members.nodes
        self._tasks = TaskNews()
        self.unfit, self.inferring = self._tasks.unfit, self._tasks.stages
        self.ledger = self._progress.ledger
        self.steps = self._progress.steps  # of the default feed
        self.keys = self._entrance.keys
        self._socket = self._entrance.socket
        self._thread = threading.Thread(target=self._run, name="tfos-coordinator", daemon=True)
        self._thread.start()

    # ---- what the driver's threads use ---------------------------------------------------------------------------------------

    @property
    def failures(self) -> list[m.Failure]:
        """What happened to nodes, in order."""
        return [failure for _, failure in self._members.failures]

    @property
    def failure(self) -> m.Failure | None:
        """The first one."""
        failures = self._members.failures
        return failures[0][1] if failures else None

    @property
    def round(self) -> int:
        """Grows when the nodes' agreement on steps begins anew."""
        return self._progress.round

    @property
    def restarts(self) -> Restarts:
        """Which trainers are started again."""
        return self._progress.restarts

    @restarts.setter
    def restarts(self, restarts: Restarts) -> None:
        self._progress.restarts = restarts

    def wait(self, condition: Callable[[], bool], timeout: float, who: str) -> None:
        """Wait until the condition holds; it is evaluated under the lock at each change, and twice a second.

        Raises
        ------
        ClusterTimeout
            ``who`` says who waits for whom.
        """
        deadline = time.monotonic() + timeout
        with self.changed:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ClusterTimeout(f"{who} (waited {timeout:g} s)")
                self.changed.wait(min(0.5, left))

    def expect(self, tokens: dict[str, str]) -> None:
        """The reservation is over: these agents are the cluster, others that connect are told to stop."""
        self._ask(lambda: self._members.expect(tokens))

    def order(self, names: Iterable[str], make: Callable[[int], m.Order], timeout: float) -> None:
        """Send an order to nodes and wait until each has acknowledged it or is gone.

        Raises
        ------
        ClusterTimeout
        """
        names = list(names)
        self._await_acks(names, self.post(names, make), timeout)

    def post(self, names: Iterable[str], make: Callable[[int], m.Order]) -> int:
        """Send an order to nodes; returns its number, which is among a node's ``acks`` once it has acknowledged it."""
        names = list(names)
        with self.changed:
            number = self._members.number()
        self._ask(lambda: self._members.order(names, make, number))
        return number

    def between(self, name: str) -> bool:
        """Whether the node's trainer is dead, and will be started again."""
        return self._progress.between(name)

    def begin_job(self, job: str, epoch: int) -> None:
        """A job of the default feed, by the prefix of its partitions' keys, is for nodes that are in the epoch of this number."""
        with self.changed:
            self._progress.begin_job(job, epoch)

    def node_of(self, job: str, number: int) -> str:
        """Where a partition of a job was fed last; empty: nowhere."""
        with self.changed:
            return self.ledger.node_of(f"{job}/{number}")

    def unfinished(self, job: str) -> frozenset[int]:
        """The numbers of the job's partitions of which rows have to come again."""
        with self.changed:
            return self._progress.unfinished(job)

    def whole(self, job: str) -> set[int]:
        """The numbers of the job's partitions that are known to be fed whole."""
        with self.changed:
            return self._progress.whole(job)

    def skip_epoch(self, epoch: int, timeout: float) -> None:
        """Of this epoch, behind which none was fed yet, nothing is fed. Waits until the nodes know where they begin.

        Raises
        ------
        ClusterTimeout
        """
        self._await_order(lambda: self._progress.skip_epoch(epoch), timeout)

    def cover(self, job: str, rows: dict[int, list[Span]]) -> None:
        """Of the partitions of a job that has not begun, these rows are not to be fed."""
        with self.changed:
            self._progress.cover(job, rows)

    def end_epoch(self, job: str, epoch: int, turn: int, timeout: float) -> None:
        """End this epoch at the nodes that are in it, unless rows of it have to come again. Waits until they know.

        Parameters
        ----------
        job : str
        epoch : int
            Its number.
        turn : int
            The ``round`` in which it was begun.
        timeout : float

        Raises
        ------
        ClusterTimeout
        """
        self._await_order(lambda: self._progress.end_epoch(job, epoch, turn), timeout)

    def end_feed(self, epoch: int, timeout: float) -> None:
        """End the feed at the nodes that have come to this epoch. Waits until they know.

        Raises
        ------
        ClusterTimeout
        """
        self._await_order(lambda: self._progress.end_feed(epoch), timeout)

    def _await_order(self, send: Callable[[], Ordered], timeout: float) -> None:
        """Send an order from this object's thread, and wait until each node has acknowledged it or is gone."""
        names, number = self._call(send) or ([], 0)
        self._await_acks(names, number, timeout)

    def _await_acks(self, names: list[str], number: int, timeout: float) -> None:
        def answered() -> bool:
            nodes = [self.nodes[name] for name in names if name in self.nodes]
            return all(number in node.acks or node.gone for node in nodes)

        self.wait(answered, timeout, f"the driver waits for an answer of the agents {', '.join(names)}")

    def _call(self, call: Callable[[], T]) -> T | None:
        """The answer of a call on this object's thread; None when that has ended."""
        out: list[T] = []
        self._ask(lambda: out.append(call()))
        self.wait(lambda: bool(out) or not self._thread.is_alive(), 60.0, "the driver waits for its coordinator")
        return out[0] if out else None

    def begin_epoch(self, job: str, epoch: int | None = None) -> None:
        """Nodes that go in step begin an epoch, of this number (default: the next), whose partitions have this prefix."""
        self._ask(lambda: self._progress.begin_epoch(job, epoch))

    def count_partitions(self, total: int) -> None:
        """The epoch's job has so many partitions."""
        self._ask(lambda: self.steps.partitions(total))

    def finish_epoch(self) -> None:
        """The epoch's job is over."""
        self._ask(self.steps.finish)

    def stop_nodes(self) -> None:
        """Tell every agent, known or yet to come, to end."""

        def apply() -> None:
            self._show()
            self._members.stop()

        self._ask(apply)

    def end_job(self, prefix: str) -> None:
        """Close a job in the ledger."""
        self._ask(lambda: self._progress.end_job(prefix))

    def close(self) -> None:
        """End the thread and close the sockets."""
        if self._entrance.closed or self._pid != os.getpid():
            return
        self._ask(self._thread_ends)
        self._thread.join(10)

    def _thread_ends(self) -> None:
        raise SystemExit

    def _ask(self, call: Callable[[], object]) -> None:
        if not self._thread.is_alive():
            return  # it has closed the eventfd, whose number may be somebody else's now
        self._requests.append(call)
        os.eventfd_write(self._wake, 1)

    # ---- the thread ----------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        for source in (self._entrance.asks, self._socket, self._wake, self._local.fileno()):
            poller.register(source, zmq.POLLIN)
        self._looked = time.monotonic()
        try:
            while True:
                try:
                    self._turn(dict(poller.poll(500)))
                except (OSError, zmq.ZMQError) as error:
                    self._descriptors.met(error)
        except SystemExit:
            log.debug("coordinator ends")
        except Exception as error:
            log.exception("the coordinator failed")
            failure = m.Failure("ClusterError", f"the coordinator failed: {error!r}", "driver", "")
            with self.changed:
                self._members.failures.insert(0, ("", failure))
                self.changed.notify_all()
            raise
        finally:
            self._local.close()
            os.close(self._wake)
            self._entrance.close()

    def _turn(self, events: dict[Any, int]) -> None:
        if self._entrance.asks in events:
            self._entrance.answer()
        with self.changed:
            if self._entrance.lost and not self._lost:
                self._lost = self._news = True
                self._members.cut_off(self._entrance.lost)
            if self._wake in events:
                os.eventfd_read(self._wake)
                self._news = True
                while self._requests:
                    self._requests.popleft()()
            heard = self._socket not in events or self._receive_all()
            if self._local.fileno() in events:
                self._have_ended(self._local.ended())
            now = time.monotonic()
            if heard and now - self._looked >= 0.5:  # not heard: the beats that count may be among those to come
                self._looked = now
                if self._descriptors.look():
                    self._have_ended(self._local.watch_missed())
                self._news |= self._members.check_silence() | self._members.check_ends()
                if self._board and now - self._shown >= METRICS_TOLD:
                    self._show()
            if self._news:
                self._progress.agree()
            if self._news or now - self._told >= BEATS_TOLD:
                self._told, self._news = now, False
                self.changed.notify_all()

    def _have_ended(self, nodes: list[NodeState]) -> None:
        for node in nodes:
            self._members.ended(node)
            self._news = True

    def _receive_all(self) -> bool:
        """Handle what has come; whether that was all of it."""
        for _ in range(1000):  # then look at the other sources again
            try:
                peer, body = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return True
            except ValueError:
                continue  # not two frames
            try:
                message = m.decode_from_agent(body)
            except UNREADABLE as error:
                node = self._members.at(peer)
                if node is not None and not node.garbled:  # once: it must not fill the log
                    node.garbled = True
                    log.warning("a message that cannot be read came from %s: %s", node.name, error)
                continue
            self._handle(peer, message)
        return False

    def _handle(self, peer: bytes, message: m.FromAgent) -> None:
        if isinstance(message, m.AgentHello):
            self._hello(peer, message)
            return
        if isinstance(message, m.Died):
            self._news |= self._members.died(peer, message)
            return
        node = self._members.at(peer)
        if node is None:
            return
        node.connected = time.monotonic()
        if isinstance(message, m.Beat):
            node.beat = message
            node.rows_taken, node.newest, node.totals = message.rows_taken, message.fed, message.totals
            node.stopped = {pid: node.stopped.get(pid, node.connected) for pid in message.stopped}
            return
        self._news = True
        match message:
            case m.Started():
                node.started, node.trainer = True, message.trainer
            case m.Fell():
                self._progress.fell(node, message)
            case m.Lost():
                self._progress.lost(node, message)
            case m.Halted():
                self._progress.halted(node, message)
            case m.FeedTerminated():
                node.terminated, node.asked = True, message.asked
                node.stops(self.nodes.values())
            case m.TensorBoardRuns():
                node.tensorboard, self._board = message.url, node.name
            case m.Holding():
                node.holding = True
            case m.Demand():
                if message.feed in node.demands or len(node.demands) < MOST_FEEDS:
                    node.demands[message.feed] = message
            case m.AgentBye():
                node.gone, node.said_bye = True, True
                node.stops(self.nodes.values())
                node.status, node.totals = message.status, message.totals
                if message.why:
                    text = f"{node.name} on {node.host}: its agent (process {node.agent.pid}) {message.why}"
                    self._members.failed(node, m.Failure("NodeFailed", text, node.name, node.host, message.remote_traceback))
            case m.Ended():
                if message.failure is not None:
                    self._members.failed(node, message.failure)
                elif message.note and message.note != node.note and not self._members.stopping:
                    node.note = message.note
                    log.warning("%s", message.note)
                node.ended = True  # not before: a node that has ended well has no failures
                node.stops(self.nodes.values())
                node.rows_taken, node.newest = message.rows_taken, message.fed
            case m.Returned():
                node.returned = node.returned or node.connected
                node.waits = message.waits
            case m.Ack():
                if node.orders.pop(message.request, None) is not None:
                    node.acks.add(message.request)
                if len(node.acks) > MOST_ACKS:
                    node.acks = set(sorted(node.acks)[MOST_ACKS // 2 :])
                node.rows_taken, node.newest = message.rows_taken, message.fed
            case m.Empty():
                self.steps.done(message.key)
            case m.Unfit() | m.Infers():
                self._tasks.hear(message)
                self._news = True
            case m.Join():
                self._progress.join(node, message)
            case m.StepsReady():
                self.steps.ready(node.name, message.epoch, message.steps, message.turn)
            case m.ClaimPartition():
                self._progress.open_partition(peer, node, message)
            case m.FenceDone():
                self._progress.fenced(node, message)
            case m.PartitionDone():
                self._progress.partition_done(node, message)

    def _hello(self, peer: bytes, message: m.AgentHello) -> None:
        if peer != m.routing_id(message.name, message.token):
            return  # it speaks for somebody else
        self._news = True
        if self._members.enter(peer, message):
            self._progress.tell_again(message.name)

    def _show(self) -> None:
        """Tell TensorBoard how the feed fares."""
        if self._board:
            self._shown = time.monotonic()
            fed = [node for node in self.nodes.values() if node.fed]
            self._members.send(self._board, m.Metrics({node.name: m.Counters(node.rows_taken, node.totals) for node in fed}))
