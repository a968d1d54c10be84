"""Which agents are the cluster, how each is reached, and which of them are lost. Nothing here waits.

An agent *enters* with its Hello. It says so again after each break of its connection, and is told once more what it has not
acknowledged. It is lost when its process ends, or when nothing is heard of it for too long.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

import msgspec

from tfos_fast.channel.host.processes import how_ended
from tfos_fast.cluster.coordinator.liveness import LocalAgents
from tfos_fast.cluster.coordinator.node_state import NodeState
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.keys import HEARTBEAT, SILENCE

log = logging.getLogger("tfos_fast.cluster")

# A node on another host is taken for dead after SILENCE without a beat (agents send one a second), as its connection is.
LAST_WORDS = 0.5  # seconds; the parent of an agent that is dead takes some milliseconds to tell how it ended
BUSY = 60.0  # seconds; the same for one on this host that is not stopped: it may be reserving a large memory
MOST_NODES = 1 << 16  # that say hello while the reservation runs
MOST_FAILURES = 4 * MOST_NODES
MOST_OF_ONE = 16  # failures that are kept of a node
MOST_TEXT = 64 << 20  # characters of tracebacks and logs that are kept with them


class Membership:
    """The members of one cluster. Used by the coordinator's thread; others look at it under the coordinator's lock.

    Parameters
    ----------
    local : LocalAgents
        Watches the agents on this machine.
    send : callable
        ``send(peer, body)``; a peer that is not connected now is silently skipped.

    Attributes
    ----------
    nodes : dict
        Name -> what is known of the node.
    failures : list
        (token of the agent, what happened), in order.
    stopping : bool
        Agents are told to end, so their ends are no failures.
    """

    def __init__(self, local: LocalAgents, send: Callable[[bytes, bytes], None]) -> None:
        self.nodes: dict[str, NodeState] = {}
        self.failures: list[tuple[str, m.Failure]] = []
        self.stopping = False
        self._expected: dict[str, str] | None = None  # name -> token, once the reservation is over
        self._local = local
        self._write = send
        self._peers: dict[bytes, str] = {}
        self._routes: dict[str, bytes] = {}
        self._next = 0
        self._looked = time.monotonic()
        self._text = 0  # characters of tracebacks and logs in `failures`

    # ---- who is in it --------------------------------------------------------------------------------------------------------

    def enter(self, peer: bytes, message: m.AgentHello) -> bool:
        """An agent says hello; whether it is a member now."""
        stale = self._expected is not None and self._expected.get(message.name) != message.token
        if stale or self.stopping:
            self.answer(peer, m.Stop())
            return False
        node = self.nodes.get(message.name)
        if node is None and len(self.nodes) >= MOST_NODES:
            return False
        if node is None or node.token != message.token:
            if node is not None:  # the reservation is tried again; the agent of the first try is not needed
                self._dismiss(node)
            node = self.nodes[message.name] = NodeState(message.name, message.token, message.host, message.agent)
            self._local.watch(node)
        self._peers[peer] = message.name
        self._routes[message.name] = peer
        node.connected = time.monotonic()
        self.send(message.name, m.AgentWelcome())
        # What was sent just before the connection broke may be lost.
        for order in node.orders.values():
            self.send(message.name, order)
        return True

    def at(self, peer: bytes) -> NodeState | None:
        """The member behind a connection."""
        name = self._peers.get(peer)
        return None if name is None else self.nodes.get(name)

    def expect(self, tokens: dict[str, str]) -> None:
        """The reservation is over: these agents are the cluster, others that connect are told to stop."""
        self._expected = dict(tokens)
        # Agents of a try of the reservation that Spark gave up may have failed: they are not of this cluster.
        self.failures = [(token, failure) for token, failure in self.failures if not token or token in tokens.values()]
        for name, node in list(self.nodes.items()):
            if tokens.get(name) != node.token:
                self._dismiss(node)

    def stop(self) -> None:
        """Tell every agent, known or yet to come, to end."""
        self.stopping = True
        for name in list(self.nodes):
            self.send(name, m.Stop())

    def _dismiss(self, node: NodeState) -> None:
        self.send(node.name, m.Stop())
        del self.nodes[node.name]
        self._local.unwatch(node)
        peer = self._routes.pop(node.name, b"")
        self._peers.pop(peer, None)
        node.gone = True

    # ---- what is sent to it --------------------------------------------------------------------------------------------------

    def send(self, name: str, message: m.ControlMessage) -> None:
        """To a node. One that is not connected now does not get it; what it must have is sent again after its next Hello."""
        self.answer(self._routes.get(name, b""), message)

    def answer(self, peer: bytes, message: m.ControlMessage) -> None:
        """To whoever has asked over this connection."""
        if peer:
            self._write(peer, m.encode(message))

    def number(self) -> int:
        """For the next order."""
        self._next += 1
        return self._next

    def order(self, names: Iterable[str], make: Callable[[int], m.Order], number: int = 0) -> int:
        """Send an order to nodes; returns its number, which is among a node's ``acks`` once it has acknowledged it.

        Parameters
        ----------
        names : iterable of str
        make : callable
            ``make(number)`` is the order.
        number : int
            From ``number``; 0: the next one.
        """
        number = number or self.number()
        for name in names:
            if name in self.nodes:
                self.nodes[name].orders[number] = make(number)
                self.send(name, make(number))
        return number

    # ---- who is lost ---------------------------------------------------------------------------------------------------------

    def failed(self, node: NodeState, failure: m.Failure) -> None:
        """This happened to a node. Whatever ends one whose ``main`` has returned is none of its failures."""
        if failure.kind == "NodeLost" and node.failure is None and (node.ended or node.returned is not None):
            if not self.stopping:
                node.note = f"{failure.summary}. Its main had returned before; what main has done counts"
                log.warning("%s", node.note)
            return
        if node.failure is None:
            node.failure = failure
            log.info("%s failed: %s", node.name, failure.summary)
        node.failures += 1
        if self.stopping or len(self.failures) >= MOST_FAILURES or node.failures > MOST_OF_ONE:
            return
        if self._text > MOST_TEXT:
            failure = msgspec.structs.replace(failure, remote_traceback="", log_tail="")
        self._text += len(failure.remote_traceback) + len(failure.log_tail)
        self.failures.append((node.token, failure))

    def ended(self, node: NodeState) -> None:
        """The process of its agent is gone. How it ended its parent will tell, unless that is gone, too."""
        if self.stopping or node.gone:
            node.gone = True
        else:
            node.missed = time.monotonic()

    def died(self, peer: bytes, message: m.Died) -> bool:
        """The parent of an agent tells how it ended; whether that is a member."""
        node = self.nodes.get(message.name)
        speaks = peer == m.routing_id(message.name, message.token) + m.PARENT.encode()
        if node is None or node.token != message.token or not speaks:
            return False
        self._lost(node, message.status)
        return True

    def _lost(self, node: NodeState, status: int | None) -> None:
        """Its agent has ended, with this status; None: nobody can tell."""
        node.missed = None
        node.gone, orderly = True, node.gone
        if self.stopping or orderly:
            return
        how = "is gone, and nobody is left who could tell how it ended" if status is None else how_ended(status)
        text = f"{node.name} on {node.host}: its agent (process {node.agent.pid}) {how}; its trainer went with it"
        self.failed(node, m.Failure("NodeLost", text, node.name, node.host, signal=max(0, -(status or 0))))

    def check_ends(self) -> bool:
        """Wait no longer for words on how agents ended; whether there were any."""
        now = time.monotonic()
        missed = [(node, node.missed) for node in self.nodes.values() if node.missed is not None]
        late = [node for node, since in missed if self.stopping or now - since > LAST_WORDS]
        for node in late:
            self._lost(node, None)
        return bool(late)

    def cut_off(self, why: str) -> None:
        """The relay is gone: agents end by themselves when they miss it."""
        for node in self.nodes.values():
            node.gone = node.gone or node.pidfd is None
        if not self.stopping:
            self.failures.append(("", m.Failure("NodeLost", why, "relay", "")))

    def check_silence(self) -> bool:
        """Give up agents of which nothing is heard; whether there were any."""
        now = time.monotonic()
        away, self._looked = now - self._looked, now
        found = False
        for node in self.nodes.values():
            if away > HEARTBEAT:  # this process itself was stopped, or busy: what was sent meanwhile is still to come
                node.connected += away
            silent = now - node.connected
            if node.gone or silent < SILENCE:
                continue
            if node.pidfd is not None and silent < BUSY and not self._local.is_stopped(node):
                continue
            found = True
            if self.stopping:
                node.gone = node.pidfd is None  # one on this machine is looked at, and killed in the end
                continue
            text = f"{node.name} on {node.host}: nothing was heard of its agent (process {node.agent.pid}) for {silent:.0f} s"
            if node.pidfd is not None:
                text += f"; it {m.STOPPED if self._local.is_stopped(node) else 'does not answer'} and was killed"
                self._local.kill(node)
            else:
                text += ", nor how it ended: its host or the network is down, or it is stopped"
            node.gone = True
            self.failed(node, m.Failure("NodeLost", text, node.name, node.host))
        return found
