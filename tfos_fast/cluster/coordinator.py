"""The coordinator: a thread in the driver that the node agents connect to. It never touches training data.

One thread owns the sockets, the ledger and the nodes' states. Other threads of the driver read snapshots under a lock, wait on a
condition that is notified at every change, and leave requests in a queue that an eventfd announces.

Agents authenticate by CURVE: the server's public key and one client key pair per cluster travel inside Spark's own task closures,
and whoever does not hold the client's secret key never gets past the handshake.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import zmq
from zmq.utils import z85

from tfos_fast.channel.messages import UNREADABLE
from tfos_fast.channel.processes import is_stopped, open_pidfd
from tfos_fast.cluster import messages as m
from tfos_fast.cluster.ledger import Action, AskFence, Grant, Ledger, Refuse
from tfos_fast.cluster.machine import machine_id
from tfos_fast.cluster.ports import unavailable
from tfos_fast.cluster.states import STOPPED, NodeState
from tfos_fast.errors import ClusterTimeout

log = logging.getLogger("tfos_fast.cluster")

SILENCE = 8.0  # seconds without a beat (agents send one a second) after which a node on another host is taken for dead
BUSY = 60.0  # the same for one on this host that is not stopped: it may be reserving a large memory
HEARTBEAT = 2.0


@dataclass(frozen=True)
class Keys:
    """What an agent needs to connect: sent only inside Spark's closures."""

    endpoint: str
    server_public: bytes
    client_public: bytes
    client_secret: bytes = field(repr=False)


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
    """

    def __init__(self, bind_address: str, advertise: str, ports: Sequence[int] = (0,)) -> None:
        self.changed = threading.Condition()
        self.nodes: dict[str, NodeState] = {}
        self._failures: list[tuple[str, m.Failure]] = []  # (token of the agent, what happened), in order
        self._expected: dict[str, str] | None = None  # name -> token, once the reservation is over
        self._ledger = Ledger()
        self._stopping = False  # agents are told to end, so their ends are no failures
        self._requests: deque[Callable[[], None]] = deque()
        self._next = 0
        self._looked = time.monotonic()
        self._opening: dict[tuple[str, int], tuple[bytes, int]] = {}  # (key, attempt) -> (peer, its request number)
        self._peers: dict[bytes, str] = {}
        self._routes: dict[str, bytes] = {}
        self._machine = machine_id()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._context = zmq.Context()
        self._pid = os.getpid()

        server_public, server_secret = zmq.curve_keypair()
        client_public, client_secret = zmq.curve_keypair()
        self._client_public = client_public
        # The address at which libzmq asks who may enter; it is per context, and so per cluster.
        self._zap = self._context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap.bind("inproc://zeromq.zap.01")
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 500
        self._socket.curve_server = True
        self._socket.curve_secretkey = server_secret
        self._socket.zap_domain = b"tfos_fast"
        self._socket.router_handover = True  # a node that reconnects takes its name over
        self._socket.heartbeat_ivl = int(HEARTBEAT * 1000)
        self._socket.heartbeat_timeout = int(SILENCE * 1000)
        self._socket.maxmsgsize = 1 << 22
        port = self._bind(bind_address, ports)
        self.keys = Keys(f"tcp://{advertise}:{port}", server_public, client_public, client_secret)
        self._thread = threading.Thread(target=self._run, name="tfos-coordinator", daemon=True)
        self._thread.start()

    def _bind(self, address: str, ports: Sequence[int]) -> int:
        try:
            for port in ports:
                try:
                    self._socket.bind(f"tcp://{address}:{port or '*'}")
                    endpoint: Any = self._socket.last_endpoint
                    return int(endpoint.rpartition(b":")[2])
                except zmq.ZMQError as error:
                    if error.errno != errno.EADDRINUSE or not port:
                        raise
            raise unavailable(address, ports, "server_port, or TFOS_SERVER_PORT")
        except OSError:  # zmq.ZMQError is one
            self._zap.close(0)
            self._socket.close(0)
            self._context.term()
            os.close(self._wake)
            raise

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
            self._failures = [(token, failure) for token, failure in self._failures if token in tokens.values()]
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
        number = self.post(names, make)

        def answered() -> bool:
            nodes = [self.nodes[name] for name in names if name in self.nodes]
            return all(number in node.acks or node.gone for node in nodes)

        self.wait(answered, timeout, f"the driver waits for an answer of the agents {', '.join(names)}")

    def post(self, names: Iterable[str], make: Callable[[int], m.Order]) -> int:
        """Send an order to nodes; returns its number, which is among a node's ``acks`` once it has acknowledged it."""
        names = list(names)
        with self.changed:
            self._next += 1
            number = self._next

        def apply() -> None:
            for name in names:
                if name in self.nodes:
                    self.nodes[name].orders[number] = make(number)
                    self._send(name, make(number))

        self._ask(apply)

        return number

    def stop_nodes(self) -> None:
        """Tell every agent, known or yet to come, to end."""

        def apply() -> None:
            self._stopping = True
            for name in list(self.nodes):
                self._send(name, m.Stop())

        self._ask(apply)

    def end_job(self, prefix: str) -> tuple[int, int]:
        """Close a job in the ledger; returns its partitions and rows that were published whole."""
        result: list[tuple[int, int]] = []

        def apply() -> None:
            result.append(self._ledger.close(prefix))

        self._ask(apply)
        self.wait(lambda: bool(result), 30, "the driver waits for its coordinator thread")
        return result[0]

    def close(self) -> None:
        """End the thread and close the sockets."""
        if self._context.closed or self._pid != os.getpid():
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
        for source in (self._zap, self._socket, self._wake):
            poller.register(source, zmq.POLLIN)
        watched: dict[int, NodeState] = {}
        try:
            while True:
                events = dict(poller.poll(500))
                if self._zap in events:
                    self._authenticate()
                with self.changed:
                    if self._wake in events:
                        os.eventfd_read(self._wake)
                        while self._requests:
                            self._requests.popleft()()
                    heard = self._socket not in events or self._receive_all()
                    for fd in [fd for fd in watched if fd in events]:
                        poller.unregister(fd)
                        self._agent_died(watched.pop(fd))
                        os.close(fd)
                    for node in self.nodes.values():
                        if node.pidfd is not None and node.pidfd not in watched:
                            poller.register(node.pidfd, zmq.POLLIN)
                            watched[node.pidfd] = node
                    if heard:  # else the beats that count may be among those to come
                        self._check_silence()
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
            for fd in [*watched, self._wake]:
                os.close(fd)
            self._zap.close(0)
            self._socket.close()
            self._context.term()

    def _authenticate(self) -> None:
        """Answer libzmq's question (RFC 27) whether this CURVE key may enter."""
        version, request, _domain, _address, _identity, mechanism, *credentials = self._zap.recv_multipart()
        good = mechanism == b"CURVE" and credentials == [z85.decode(self._client_public)]
        status = (b"200", b"OK") if good else (b"400", b"this key is not of this cluster")
        self._zap.send_multipart([version, request, *status, b"agent", b""])

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
                log.warning("a message that cannot be read came from %r: %s", peer, error)
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
        match message:
            case m.Beat():
                node.beat = message
                node.rows_taken, node.totals = message.rows_taken, message.totals
                node.stopped = {pid: node.stopped.get(pid, node.connected) for pid in message.stopped}
            case m.Started():
                node.started, node.trainer = True, message.trainer
            case m.Terminated():
                node.terminated, node.asked = True, message.asked
            case m.TensorBoard():
                node.tensorboard = message.url
            case m.Holding():
                node.holding = True
            case m.Demand():
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
                node.acks.add(message.request)
                node.orders.pop(message.request, None)
                node.rows_taken, node.rows_left = message.rows_taken, message.rows_left
            case m.OpenPartition():
                self._opening[message.key, message.attempt] = (peer, message.request)
                self._act(self._ledger.open(name, message.key, message.attempt))
            case m.Fenced():
                self._act(self._ledger.fenced(name, message.key, message.attempt, message.watermark, message.proof))
            case m.PartitionDone():
                self._act(self._ledger.done(name, message.key, message.attempt, message.rows, message.proof))

    def _hello(self, peer: bytes, message: m.Hello) -> None:
        stale = self._expected is not None and self._expected.get(message.name) != message.token
        if stale or self._stopping:
            self._route(peer, m.Stop())
            return
        node = self.nodes.get(message.name)
        if node is None or node.token != message.token:
            if node is not None:  # the reservation is tried again; the agent of the first try is not needed
                self._send(node.name, m.Stop())
                self._drop(node.name)
            node = self.nodes[message.name] = NodeState(message.name, message.token, message.host, message.agent)
            if message.agent.machine == self._machine:
                try:
                    node.pidfd = open_pidfd(message.agent.pid, message.agent.started)
                    node.gone = node.pidfd is None
                except (OSError, OverflowError) as error:  # no number of a process; silence tells of its end
                    log.warning("the end of %s cannot be watched: %s", node.name, error)
        self._peers[peer] = message.name
        self._routes[message.name] = peer
        node.connected = time.monotonic()
        self._send(message.name, m.Welcome())
        # What was sent just before the connection broke may be lost.
        for order in node.orders.values():
            self._send(message.name, order)
        self._act(list(self._ledger.fences_at(message.name)))

    def _act(self, actions: list[Action] | list[AskFence]) -> None:
        for action in actions:
            match action:
                case Grant(_, key, attempt, skip, proof):
                    peer, request = self._opening.pop((key, attempt), (b"", 0))
                    self._route(peer, m.Opened(request, skip, proof))
                case Refuse(_, key, attempt, text):
                    peer, request = self._opening.pop((key, attempt), (b"", 0))
                    self._route(peer, m.Refused(request, text))
                case AskFence(node, key, attempt):
                    self._send(node, m.Fence(key, attempt))

    def _failed(self, node: NodeState, failure: m.Failure) -> None:
        if node.failure is None:
            node.failure = failure
            log.info("%s failed: %s", node.name, failure.summary)
        if not self._stopping:
            self._failures.append((node.token, failure))

    def _agent_died(self, node: NodeState) -> None:
        dropped = self.nodes.get(node.name) is not node
        node.gone, node.pidfd, orderly = True, None, node.gone
        if not (self._stopping or dropped or orderly):
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
            self._socket.send_multipart([peer, m.encode(message)], zmq.NOBLOCK)
