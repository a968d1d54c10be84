"""The processes of the agents on this machine: the end of each is seen at once, by a pidfd that one epoll watches."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal

from tfos_fast.channel.host.descriptors import none_left
from tfos_fast.channel.host.processes import is_stopped, open_pidfd
from tfos_fast.cluster.coordinator.node_state import NodeState
from tfos_fast.cluster.protocol.identity import machine_id

log = logging.getLogger("tfos_fast.cluster")


class LocalAgents:
    """Agents elsewhere, and those that cannot be watched, are none of these: silence tells of their end."""

    def __init__(self) -> None:
        self._machine = machine_id()
        self._nodes: dict[int, NodeState] = {}  # by pidfd
        self._missed: list[NodeState] = []  # for which no descriptor was left
        self._epoll = select.epoll()  # of these, so that a turn costs the same however many there are

    def __len__(self) -> int:
        return len(self._nodes)

    def fileno(self) -> int:
        """Is readable when an agent has ended."""
        return self._epoll.fileno()

    def watch(self, node: NodeState) -> None:
        """See the end of the node's agent, if that is on this machine; it may have ended already."""
        if node.agent.machine != self._machine:
            return
        try:
            node.pidfd = open_pidfd(node.agent.pid, node.agent.started)
            node.gone = node.pidfd is None
        except (OSError, OverflowError) as error:  # out of descriptors; or no number of a process
            log.warning("the end of %s cannot be watched: %s", node.name, error)
            if none_left(error):
                self._missed.append(node)
            return
        if node.pidfd is not None:
            self._nodes[node.pidfd] = node
            self._epoll.register(node.pidfd, select.EPOLLIN)

    def watch_missed(self) -> list[NodeState]:
        """Watch those for which no descriptor was left. Returns the nodes whose agents have ended meanwhile."""
        missed, self._missed = self._missed, []
        ended: list[NodeState] = []
        for node in missed:
            if not node.gone:
                self.watch(node)
                if node.gone:
                    node.gone = False
                    ended.append(node)
        return ended

    def unwatch(self, node: NodeState) -> None:
        """Forget an agent, if it is watched."""
        if node.pidfd is not None:
            self._unwatch(node.pidfd)

    def ended(self) -> list[NodeState]:
        """The nodes whose agents have ended since. They are not watched any more."""
        return [self._unwatch(fd) for fd, _ in self._epoll.poll(0)]

    @staticmethod
    def is_stopped(node: NodeState) -> bool:
        """Whether a signal or a debugger keeps the agent from running."""
        return is_stopped(node.agent.pid)

    @staticmethod
    def kill(node: NodeState) -> None:
        """Kill an agent that is watched. Its trainer goes with it, and who waits for it hears of its end."""
        if node.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(node.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Watch nobody any more."""
        self._epoll.close()
        for fd in self._nodes:
            os.close(fd)

    def _unwatch(self, fd: int) -> NodeState:
        self._epoll.unregister(fd)
        os.close(fd)
        node = self._nodes.pop(fd)
        node.pidfd = None
        return node
