"""The coordinator: a thread in the driver that the node agents connect to. It never touches training data.

One thread owns the sockets, the ledger and the nodes' states. Other threads of the driver read snapshots under a lock, wait on a
condition that is notified at every change, and leave requests in a queue that an eventfd announces.

Agents authenticate by CURVE: the server's public key and one client key pair per cluster travel inside Spark's own task closures,
and whoever does not hold the client's secret key never gets past the handshake. A holder of the key may speak for a node only with
the token of its agent; what it sends is typed and bounded (``messages.py``), and what cannot be read is dropped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import zmq

from tfos_fast.channel.messages import UNREADABLE
from tfos_fast.channel.processes import is_stopped, open_pidfd
from tfos_fast.channel.spans import Span
from tfos_fast.cluster import messages as m
from tfos_fast.cluster.entrance import HEARTBEAT, SILENCE, Entrance
from tfos_fast.cluster.ledger import Action, AskFence, Grant, Ledger, Refuse
from tfos_fast.cluster.machine import machine_id
from tfos_fast.cluster.relayed import RelayedEntrance
from tfos_fast.cluster.restarts import Action as Restart
from tfos_fast.cluster.restarts import Begin, Halt, Restarts
from tfos_fast.cluster.states import STOPPED, NodeState
from tfos_fast.cluster.steps import Action as Step
from tfos_fast.cluster.steps import AskSettle, StepAgreement
from tfos_fast.errors import ClusterTimeout

log = logging.getLogger("tfos_fast.cluster")
T = TypeVar("T")

# A node on another host is taken for dead after SILENCE without a beat (agents send one a second), as its connection is.
BUSY = 60.0  # seconds; the same for one on this host that is not stopped: it may be reserving a large memory
MOST_NODES = 1 << 16  # that say hello while the reservation runs
MOST_FEEDS = 256  # named ones that a node may ask for
MOST_ACKS = 4096  # that are remembered of a node
MOST_FAILURES = 4 * MOST_NODES
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
        self.nodes: dict[str, NodeState] = {}
        self._failures: list[tuple[str, m.Failure]] = []  # (token of the agent, what happened), in order
        self._expected: dict[str, str] | None = None  # name -> token, once the reservation is over
        self.ledger = Ledger()
        self.steps = StepAgreement()  # of the default feed
        self.restarts = Restarts()
        self.round = 0  # grows when the nodes' agreement on steps begins anew
        self._first = 0  # number of the epoch that was the first one of that agreement
        self._jobs: dict[str, int] = {}  # prefix of a job of the default feed -> number of its epoch
        self._stopping = False  # agents are told to end, so their ends are no failures
        self._requests: deque[Callable[[], None]] = deque()
        self._next = 0
        self._looked = time.monotonic()
        self._opening: dict[tuple[str, int], tuple[bytes, int]] = {}  # (key, attempt) -> (peer, its request number)
        self._peers: dict[bytes, str] = {}
        self._routes: dict[str, bytes] = {}
        self._watched: dict[int, NodeState] = {}  # pidfds of agents on this machine
        self._deaths = select.epoll()  # of these, so that a turn costs the same however many there are
        self._told = 0.0  # when the driver's threads were last woken
        self._lost = False  # the entrance
        self._news = False  # something else than counters has changed since
        self._board = ""  # name of the node that runs TensorBoard
        self._shown = 0.0  # when that one was last told
        self._machine = machine_id()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._pid = os.getpid()

        try:
            self._entrance = entrance or Entrance(bind_address, advertise, ports)
        except OSError:
            os.close(self._wake)
            self._deaths.close()
            raise
        self.keys = self._entrance.keys
        self._socket = self._entrance.socket
        self._thread = threading.Thread(target=self._run, name="tfos-coordinator", daemon=True)
        self._thread.start()

    # ---- what the driver's threads use ---------------------------------------------------------------------------------------

    @property
    def failures(self) -> list[m.Failure]:
        """What happened to nodes, in order."""
        return [failure for _, failure in self._failures]

    @property
    def failure(self) -> m.Failure | None:
        """The first one."""
        return self._failures[0][1] if self._failures else None

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

        def apply() -> None:
            self._expected = dict(tokens)
            # Agents of a try of the reservation that Spark gave up may have failed: they are not of this cluster.
            self._failures = [(token, failure) for token, failure in self._failures if not token or token in tokens.values()]
            for name, node in list(self.nodes.items()):
                if tokens.get(name) != node.token:
                    self._send(name, m.Stop())
                    self._drop(name)

        self._ask(apply)

    def order(self, names: Iterable[str], make: Callable[[int], m.Order], timeout: float) -> None:
        """Send an order to nodes and wait until each has acknowledged it or is gone.

        Raises
        ------
        ClusterTimeout
        """
        names = list(names)
        self._answered(names, self.post(names, make), timeout)

    def post(self, names: Iterable[str], make: Callable[[int], m.Order]) -> int:
        """Send an order to nodes; returns its number, which is among a node's ``acks`` once it has acknowledged it."""
        names = list(names)
        with self.changed:
            self._next += 1
            number = self._next
        self._ask(lambda: self._order(names, number, make))
        return number

    def _order(self, names: Iterable[str], number: int, make: Callable[[int], m.Order]) -> None:
        for name in names:
            if name in self.nodes:
                self.nodes[name].orders[number] = make(number)
                self._send(name, make(number))

    def _order_now(self, names: Iterable[str], make: Callable[[int], m.Order]) -> int:
        """As ``post``, on this object's own thread."""
        self._next += 1
        self._order(names, self._next, make)
        return self._next

    def between(self, name: str) -> bool:
        """Whether the node's trainer is dead, and will be started again."""
        return self.restarts.under_way(name)

    def begin_job(self, job: str, epoch: int) -> None:
        """A job of the default feed, by the prefix of its partitions' keys, is for nodes that are in the epoch of this number."""
        with self.changed:
            self._jobs[job] = epoch

    def unfinished(self, job: str) -> frozenset[int]:
        """The numbers of the job's partitions of which rows have to come again."""
        with self.changed:
            return self.ledger.unfinished(job)

    def skip_epoch(self, epoch: int, timeout: float) -> None:
        """Of this epoch, behind which none was fed yet, nothing is fed. Waits until the nodes know where they begin.

        Raises
        ------
        ClusterTimeout
        """

        def skip() -> tuple[list[str], int]:
            names = [name for name, node in self.nodes.items() if node.trains and node.at == epoch and not self.between(name)]
            for name in names:
                self.nodes[name].at = self._first = epoch + 1
            return names, self._order_now(names, lambda number: m.From(number, epoch + 1))

        names, number = self._call(skip) or ([], 0)
        self._answered(names, number, timeout)

    def cover(self, job: str, rows: dict[int, list[Span]]) -> None:
        """Of the partitions of a job that has not begun, these rows are not to be fed."""
        with self.changed:
            self.ledger.cover(job, rows)

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

        def ends() -> tuple[list[str], int]:
            if turn != self.round or self.ledger.unfinished(job):
                return [], 0
            self.ledger.close(job)
            names = [name for name, node in self.nodes.items() if node.trains and node.at == epoch and not self.between(name)]
            for name in names:
                self.nodes[name].at += 1
            names = [name for name in names if self.nodes[name].fed]
            return names, self._order_now(names, m.EndEpoch)

        names, number = self._call(ends) or ([], 0)
        self._answered(names, number, timeout)

    def end_feed(self, epoch: int, timeout: float) -> None:
        """End the feed at the nodes that have come to this epoch. Waits until they know.

        Raises
        ------
        ClusterTimeout
        """

        def ends() -> tuple[list[str], int]:
            fed = {name: node for name, node in self.nodes.items() if node.fed and not (node.feed_ended or self.between(name))}
            names = [name for name, node in fed.items() if node.at == epoch or not node.eats]
            for name in names:
                self.nodes[name].feed_ended = True
            return names, self._order_now(names, m.EndFeed)

        names, number = self._call(ends) or ([], 0)
        self._answered(names, number, timeout)

    def _answered(self, names: Iterable[str], number: int, timeout: float) -> None:
        names = list(names)

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

        def begin() -> None:
            hosts = {name: node.host for name, node in self.nodes.items() if node.fed}
            self.steps.begin(job, hosts, None if epoch is None else epoch - self._first)

        self._ask(begin)

    def count_partitions(self, total: int) -> None:
        """The epoch's job has so many partitions."""
        self._ask(lambda: self.steps.partitions(total))

    def finish_epoch(self) -> None:
        """The epoch's job is over."""
        self._ask(self.steps.finish)

    def stop_nodes(self) -> None:
        """Tell every agent, known or yet to come, to end."""

        def apply() -> None:
            self._stopping = True
            self._show()
            for name in list(self.nodes):
                self._send(name, m.Stop())

        self._ask(apply)

    def end_job(self, prefix: str) -> None:
        """Close a job in the ledger."""
        self._ask(lambda: self.ledger.close(prefix))

    def close(self) -> None:
        """End the thread and close the sockets."""
        if self._entrance.closed or self._pid != os.getpid():
            return
        self._ask(self._thread_ends)
        self._thread.join(10)

    def _thread_ends(self) -> None:
        raise SystemExit

    def _ask(self, call: Callable[[], None]) -> None:
        if not self._thread.is_alive():
            return  # it has closed the eventfd, whose number may be somebody else's now
        self._requests.append(call)
        os.eventfd_write(self._wake, 1)

    # ---- the thread ----------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        for source in (self._entrance.asks, self._socket, self._wake, self._deaths.fileno()):
            poller.register(source, zmq.POLLIN)
        looked = time.monotonic()
        try:
            while True:
                events = dict(poller.poll(500))
                if self._entrance.asks in events:
                    self._entrance.answer()
                with self.changed:
                    if self._entrance.lost and not self._lost:
                        self._lose_all()
                    if self._wake in events:
                        os.eventfd_read(self._wake)
                        self._news = True
                        while self._requests:
                            self._requests.popleft()()
                    heard = self._socket not in events or self._receive_all()
                    if self._deaths.fileno() in events:
                        for fd, _ in self._deaths.poll(0):
                            self._agent_died(self._unwatch(fd))
                    now = time.monotonic()
                    if heard and now - looked >= 0.5:  # not heard: the beats that count may be among those to come
                        looked = now
                        self._check_silence()
                        if self._board and now - self._shown >= METRICS_TOLD:
                            self._show()
                    if self._news:
                        self._agree()
                    if self._news or now - self._told >= BEATS_TOLD:
                        self._told, self._news = now, False
                        self.changed.notify_all()
        except SystemExit:
            log.debug("coordinator ends")
        except Exception as error:
            log.exception("the coordinator failed")
            with self.changed:
                self._failures.insert(0, ("", m.Failure("ClusterError", f"the coordinator failed: {error!r}", "driver", "")))
                self.changed.notify_all()
            raise
        finally:
            self._deaths.close()
            for fd in [*self._watched, self._wake]:
                os.close(fd)
            self._entrance.close()

    def _lose_all(self) -> None:
        """The relay is gone: agents end by themselves when they miss it."""
        self._lost = self._news = True
        for node in self.nodes.values():
            node.gone = node.gone or node.pidfd is None
        if not self._stopping:
            self._failures.append(("", m.Failure("NodeLost", self._entrance.lost, "relay", "")))

    def _watch(self, node: NodeState) -> None:
        """See the end of an agent on this machine; elsewhere, and where that cannot be, silence tells of it."""
        try:
            node.pidfd = open_pidfd(node.agent.pid, node.agent.started)
            node.gone = node.pidfd is None
        except (OSError, OverflowError) as error:  # out of descriptors; or no number of a process
            log.warning("the end of %s cannot be watched: %s", node.name, error)
            return
        if node.pidfd is not None:
            self._watched[node.pidfd] = node
            self._deaths.register(node.pidfd, select.EPOLLIN)

    def _unwatch(self, fd: int) -> NodeState:
        self._deaths.unregister(fd)
        os.close(fd)
        node = self._watched.pop(fd)
        node.pidfd = None
        return node

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
                node = self.nodes.get(self._peers.get(peer, ""))
                if node is not None and not node.garbled:  # once: it must not fill the log
                    node.garbled = True
                    log.warning("a message that cannot be read came from %s: %s", node.name, error)
                continue
            self._handle(peer, message)
        return False

    def _handle(self, peer: bytes, message: m.FromAgent) -> None:
        if isinstance(message, m.Hello):
            self._hello(peer, message)
            return
        name = self._peers.get(peer)
        node = self.nodes.get(name or "")
        if name is None or node is None:
            return
        node.connected = time.monotonic()
        if isinstance(message, m.Beat):
            node.beat = message
            node.rows_taken, node.totals = message.rows_taken, message.totals
            node.stopped = {pid: node.stopped.get(pid, node.connected) for pid in message.stopped}
            return
        self._news = True
        match message:
            case m.Started():
                node.started, node.trainer = True, message.trainer
            case m.Fell():
                self._fell(node, message)
            case m.Lost() if message.life == self.restarts.life(name):
                before = node.losing or m.Lost(message.life, {}, {})
                node.losing = m.Lost(message.life, before.frontier | message.frontier, before.rows | message.rows)
            case m.Lost():
                pass
            case m.Halted():
                self._halted(node, message)
            case m.Terminated():
                node.terminated, node.asked = True, message.asked
            case m.TensorBoard():
                node.tensorboard, self._board = message.url, node.name
            case m.Holding():
                node.holding = True
            case m.Demand():
                if message.feed in node.demands or len(node.demands) < MOST_FEEDS:
                    node.demands[message.feed] = message
            case m.Bye():
                node.gone, node.said_bye = True, True
                node.status, node.totals = message.status, message.totals
                if message.why:
                    text = f"{node.name} on {node.host}: its agent (process {node.agent.pid}) {message.why}"
                    self._failed(node, m.Failure("NodeFailed", text, node.name, node.host, message.remote_traceback))
            case m.Ended():
                node.ended = True
                node.rows_taken, node.rows_left = message.rows_taken, message.rows_left
                if message.failure is not None:
                    self._failed(node, message.failure)
            case m.Ack():
                if node.orders.pop(message.request, None) is not None:
                    node.acks.add(message.request)
                if len(node.acks) > MOST_ACKS:
                    node.acks = set(sorted(node.acks)[MOST_ACKS // 2 :])
                node.rows_unused = message.rows_unused
                node.rows_taken, node.rows_left = message.rows_taken, message.rows_left
            case m.Empty():
                self.steps.done(message.key)
            case m.Join():
                problem = self.steps.join(name, message.pace)
                if problem:
                    self._failed(node, m.Failure("FormError", problem, name, node.host))
            case m.StepsReady():
                self.steps.ready(name, message.epoch, message.steps, message.turn)
            case m.OpenPartition() if not self._awaits(node, message.key):
                text = f"{name} was started again, and is not yet, or not any more, where partition {message.key} is fed"
                self._route(peer, m.Refused(message.request, text, "Yielded"))
            case m.OpenPartition() if other := self.steps.better(name, message.key):
                self._route(peer, m.Refused(message.request, other, "Elsewhere"))
            case m.OpenPartition():
                self._opening[message.key, message.attempt] = (peer, message.request)
                self._act(self.ledger.open(name, message.key, message.attempt))
            case m.Fenced():
                self._act(self.ledger.fenced(name, message.key, message.attempt, message.reached, message.proof))
            case m.PartitionDone():
                self._act(self.ledger.done(name, message.key, message.attempt, message.rows, message.proof))
                self.steps.done(message.key)

    def _hello(self, peer: bytes, message: m.Hello) -> None:
        if peer != m.routing_id(message.name, message.token):
            return  # it speaks for somebody else
        self._news = True
        stale = self._expected is not None and self._expected.get(message.name) != message.token
        if stale or self._stopping:
            self._route(peer, m.Stop())
            return
        node = self.nodes.get(message.name)
        if node is None and len(self.nodes) >= MOST_NODES:
            return
        if node is None or node.token != message.token:
            if node is not None:  # the reservation is tried again; the agent of the first try is not needed
                self._send(node.name, m.Stop())
                self._drop(node.name)
            node = self.nodes[message.name] = NodeState(message.name, message.token, message.host, message.agent)
            if message.agent.machine == self._machine:
                self._watch(node)
        self._peers[peer] = message.name
        self._routes[message.name] = peer
        node.connected = time.monotonic()
        self._send(message.name, m.Welcome())
        # What was sent just before the connection broke may be lost.
        for order in node.orders.values():
            self._send(message.name, order)
        self._act(list(self.ledger.fences_at(message.name)))
        self._carry(self.steps.repeat(message.name))

    def _act(self, actions: list[Action] | list[AskFence]) -> None:
        for action in actions:
            match action:
                case Grant(name, key, attempt, skip, proof, stop):
                    self.steps.opened(name, key)
                    peer, request = self._opening.pop((key, attempt), (b"", 0))
                    self._route(peer, m.Opened(request, skip, proof, stop))
                case Refuse(_, key, attempt, text):
                    peer, request = self._opening.pop((key, attempt), (b"", 0))
                    self._route(peer, m.Refused(request, text))
                case AskFence(node, key, attempt):
                    self._send(node, m.Fence(key, attempt))

    def _agree(self) -> None:
        """Once a turn of the loop: what many nodes have told makes one answer."""
        if not self.steps.wanted:
            return
        for node in self.nodes.values():
            if not node.eats:
                self.steps.gone(node.name)
        self._carry(self.steps.actions())

    def _carry(self, actions: list[Step]) -> None:
        for action in actions:
            if isinstance(action, AskSettle):
                self._send(action.node, m.Settle(action.epoch, action.turn))
            else:
                self._send(action.node, m.StepsAgreed(action.epoch, action.steps, action.end))

    def _awaits(self, node: NodeState, key: str) -> bool:
        """Whether a partition is of the epoch that the node is in, and that has begun."""
        epoch = self._jobs.get(key.rpartition("/")[0])
        return epoch is None or (epoch == node.at and not (self.steps.wanted and self.steps.epoch < 0))

    def _fell(self, node: NodeState, message: m.Fell) -> None:
        """A trainer has died that may be started again."""
        if self._stopping:
            return
        names = [state.name for state in self.nodes.values()]
        group = self.steps.wanted and node.trains  # the others wait for it in their next step
        actions = None if self._failures else self.restarts.fell(node.name, message.life, names, group=group)
        if actions is None:
            most = self.restarts.most
            times = f"{most} time{'s'[: most != 1]}"
            often = "" if self._failures else f" (the trainer was started again {times}, as max_restarts says)"
            self._order_now([node.name], lambda number: m.GiveUp(number, often))
        elif actions:
            halted = [action.node for action in actions]
            who = "it is" if halted == [node.name] else "all are"
            log.warning("%s; %s started again (max_restarts=%d)", message.failure.summary, who, self.restarts.most)
            for name in halted:
                self.nodes[name].restarts.append(message.failure.summary)
            self._restart(actions)

    def _halted(self, node: NodeState, message: m.Halted) -> None:
        if message.life != self.restarts.life(node.name) or not self.between(node.name):
            return  # it tells again what is known
        lost = node.losing or m.Lost(message.life, {}, {})
        node.begin_anew()
        self._act(self.ledger.lost(node.name, lost.frontier, lost.rows))
        self._restart(self.restarts.halted(node.name, message.life, message.epoch))

    def _restart(self, actions: list[Restart]) -> None:
        begun = [action for action in actions if isinstance(action, Begin) and self.nodes[action.node].trains]
        if self.steps.wanted and begun:
            self.steps.reset()
            self.round += 1
            self._first = begun[0].epoch
        for action in actions:
            life, epoch = action.life, 0
            if isinstance(action, Halt):
                self._order_now([action.node], lambda number, life=life: m.Halt(number, life))  # type: ignore[misc]
            else:
                epoch = self.nodes[action.node].at = action.epoch
                self._order_now([action.node], lambda number, life=life, epoch=epoch: m.Begin(number, life, epoch))  # type: ignore[misc]

    def _show(self) -> None:
        """Tell TensorBoard how the feed fares."""
        if self._board:
            self._shown = time.monotonic()
            fed = [node for node in self.nodes.values() if node.fed]
            self._send(self._board, m.Metrics({node.name: m.Counters(node.rows_taken, node.totals) for node in fed}))

    def _failed(self, node: NodeState, failure: m.Failure) -> None:
        if node.failure is None:
            node.failure = failure
            log.info("%s failed: %s", node.name, failure.summary)
        if not self._stopping and len(self._failures) < MOST_FAILURES:
            self._failures.append((node.token, failure))

    def _agent_died(self, node: NodeState) -> None:
        node.gone, orderly, self._news = True, node.gone, True
        if not (self._stopping or orderly):
            text = f"{node.name} on {node.host}: its agent (process {node.agent.pid}) is gone, and its trainer with it"
            self._failed(node, m.Failure("NodeLost", text, node.name, node.host))

    def _check_silence(self) -> None:
        now = time.monotonic()
        away, self._looked = now - self._looked, now
        for node in self.nodes.values():
            if away > HEARTBEAT:  # this process itself was stopped, or busy: what was sent meanwhile is still to come
                node.connected += away
            silent = now - node.connected
            if node.gone or silent < SILENCE:
                continue
            if node.pidfd is not None and silent < BUSY and not is_stopped(node.agent.pid):
                continue
            self._news = True
            if self._stopping:
                node.gone = node.pidfd is None  # one on this machine is looked at, and killed in the end
                continue
            text = f"{node.name} on {node.host}: nothing was heard of its agent (process {node.agent.pid}) for {silent:.0f} s"
            if node.pidfd is not None:
                # Its trainer goes with it, and who waits for it hears of its end.
                text += f"; it {STOPPED if is_stopped(node.agent.pid) else 'does not answer'} and was killed"
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(node.pidfd, signal.SIGKILL)
            node.gone = True
            self._failed(node, m.Failure("NodeLost", text, node.name, node.host))

    def _drop(self, name: str) -> None:
        node = self.nodes.pop(name)
        if node.pidfd is not None:
            self._unwatch(node.pidfd)
        peer = self._routes.pop(name, b"")
        self._peers.pop(peer, None)
        node.gone = True

    def _send(self, name: str, message: m.Message) -> None:
        peer = self._routes.get(name)
        if peer is not None:
            self._route(peer, message)

    def _route(self, peer: bytes, message: m.Message) -> None:
        # A peer that is not connected now is silently skipped by ROUTER; what it must have is sent again after its next Hello.
        if peer:
            self._entrance.send(peer, m.encode(message))
