"""How far the default feed has come at each node: its epochs, their partitions and steps, and what comes again after a restart.

What follows is decided by pure machines, the ledger, the agreement on steps and the restarts. Here their words become messages and
orders, and what one of them has to know of another is told. Nothing here waits.
"""

from __future__ import annotations

import logging

from tfos_fast.channel.protocol.row_spans import Span
from tfos_fast.cluster.coordinator.ledger import Action, AskFence, Grant, Ledger, Refuse
from tfos_fast.cluster.coordinator.lockstep import Action as Step
from tfos_fast.cluster.coordinator.lockstep import AskSettle, StepAgreement
from tfos_fast.cluster.coordinator.membership import Membership
from tfos_fast.cluster.coordinator.node_state import NodeState
from tfos_fast.cluster.coordinator.restarts import Action as Restart
from tfos_fast.cluster.coordinator.restarts import Begin, Halt, Restarts
from tfos_fast.cluster.protocol import messages as m

log = logging.getLogger("tfos_fast.cluster")

MOST_LOST = 1 << 20  # partitions that a node leaves
Ordered = tuple[list[str], int]  # names of nodes, and the number of the order that they were sent


class Progress:
    """The default feed of one cluster. Used by the coordinator's thread; others look at it under the coordinator's lock.

    Parameters
    ----------
    members : Membership

    Attributes
    ----------
    ledger : Ledger
        Also of named feeds.
    steps : StepAgreement
    restarts : Restarts
    round : int
        Grows when the nodes' agreement on steps begins anew.
    """

    def __init__(self, members: Membership) -> None:
        self.ledger = Ledger()
        self.steps = StepAgreement()
        self.restarts = Restarts()
        self.round = 0
        self._members = members
        self._nodes = members.nodes
        self._first = 0  # number of the epoch that was the first one of the agreement on steps
        self._jobs: dict[str, int] = {}  # prefix of a job of the default feed -> number of its epoch
        self._opening: dict[tuple[str, int], tuple[bytes, int]] = {}  # (key, attempt) -> (peer, its request number)

    def tell_again(self, name: str) -> None:
        """A node has connected: what was said to it just before its connection broke may be lost."""
        self._act(list(self.ledger.fences_at(name)))
        self._carry(self.steps.repeat(name))

    # ---- epochs --------------------------------------------------------------------------------------------------------------

    def begin_job(self, job: str, epoch: int) -> None:
        """A job of the default feed is for nodes that are in the epoch of this number."""
        self._jobs[job] = epoch

    def begin_epoch(self, job: str, epoch: int | None) -> None:
        """Nodes that go in step begin an epoch."""
        hosts = {name: node.host for name, node in self._nodes.items() if node.fed}
        self.steps.begin(job, hosts, None if epoch is None else epoch - self._first)

    def skip_epoch(self, epoch: int) -> Ordered:
        """Nothing of an epoch is fed."""
        names = self._in_epoch(epoch)
        for name in names:
            self._nodes[name].at = self._first = epoch + 1
        return names, self._members.order(names, lambda number: m.From(number, epoch + 1))

    def end_epoch(self, job: str, epoch: int, turn: int) -> Ordered:
        """End an epoch that was begun in this round, unless rows of it have to come again."""
        if turn != self.round or self.ledger.unfinished(job):
            return [], 0
        self.ledger.close(job)
        names = self._in_epoch(epoch)
        for name in names:
            self._nodes[name].at += 1
        names = [name for name in names if self._nodes[name].fed]
        return names, self._members.order(names, m.EndEpoch)

    def end_feed(self, epoch: int) -> Ordered:
        """End the feed at the nodes that have come to this epoch."""
        fed = {name: node for name, node in self._nodes.items() if node.fed and not (node.feed_ended or self.between(name))}
        names = [name for name, node in fed.items() if node.at == epoch or not node.eats]
        for name in names:
            self._nodes[name].feed_ended = True
        return names, self._members.order(names, m.EndFeed)

    def _in_epoch(self, epoch: int) -> list[str]:
        return [name for name, node in self._nodes.items() if node.trains and node.at == epoch and not self.between(name)]

    # ---- partitions ----------------------------------------------------------------------------------------------------------

    def unfinished(self, job: str) -> frozenset[int]:
        """The numbers of the job's partitions of which rows have to come again."""
        return self.ledger.unfinished(job)

    def whole(self, job: str) -> set[int]:
        """The numbers of the job's partitions that are known to be fed whole."""
        return self.ledger.whole(job)

    def cover(self, job: str, rows: dict[int, list[Span]]) -> None:
        """Of the partitions of a job that has not begun, these rows are not to be fed."""
        self.ledger.cover(job, rows)

    def end_job(self, prefix: str) -> None:
        """Close a job in the ledger."""
        self.ledger.close(prefix)

    def open_partition(self, peer: bytes, node: NodeState, message: m.ClaimPartition) -> None:
        """A feed task has come to a node; the answer may take until an earlier attempt is fenced."""
        if not self._awaits(node, message.key):
            text = f"{node.name} was started again, and is not yet, or not any more, where partition {message.key} is fed"
            self._members.answer(peer, m.ClaimRefused(message.request, text, "Yielded"))
        elif other := self.steps.better(node.name, message.key):
            self._members.answer(peer, m.ClaimRefused(message.request, other, "Elsewhere"))
        else:
            if self.ledger.is_new(message.key) and message.key.rpartition("/")[0] in self._jobs:
                node.begun += 1
            self._opening[message.key, message.attempt] = (peer, message.request)
            self._act(self.ledger.open(node.name, message.key, message.attempt))

    def fenced(self, node: NodeState, message: m.FenceDone) -> None:
        """A node has shut an older attempt out."""
        self._act(self.ledger.fenced(node.name, message.key, message.attempt, message.reached, message.proof))

    def partition_done(self, node: NodeState, message: m.PartitionDone) -> None:
        """A partition was published whole."""
        self._act(self.ledger.done(node.name, message.key, message.attempt, message.rows, message.proof, eats=node.eats))
        self.steps.done(message.key)

    def _awaits(self, node: NodeState, key: str) -> bool:
        """Whether a partition is of the epoch that the node is in, and that has begun."""
        epoch = self._jobs.get(key.rpartition("/")[0])
        return epoch is None or (epoch == node.at and not (self.steps.wanted and self.steps.epoch < 0))

    def _act(self, actions: list[Action] | list[AskFence]) -> None:
        for action in actions:
            match action:
                case Grant(name, key, attempt, skip, proof, stop):
                    self.steps.opened(name, key)
                    peer, request = self._opening.pop((key, attempt), (b"", 0))
                    self._members.answer(peer, m.ClaimGranted(request, skip, proof, stop))
                case Refuse(_, key, attempt, text):
                    peer, request = self._opening.pop((key, attempt), (b"", 0))
                    self._members.answer(peer, m.ClaimRefused(request, text))
                case AskFence(node, key, attempt):
                    self._members.send(node, m.Fence(key, attempt))

    # ---- steps ---------------------------------------------------------------------------------------------------------------

    def join(self, node: NodeState, message: m.Join) -> None:
        """The node's reader goes in step."""
        problem = self.steps.join(node.name, message.pace)
        if problem:
            self._members.failed(node, m.Failure("FormError", problem, node.name, node.host))

    def agree(self) -> None:
        """Once a turn of the loop: what many nodes have told makes one answer."""
        if not self.steps.wanted:
            return
        for node in self._nodes.values():
            if not node.eats:
                self.steps.gone(node.name)
        self._carry(self.steps.actions())

    def _carry(self, actions: list[Step]) -> None:
        for action in actions:
            if isinstance(action, AskSettle):
                self._members.send(action.node, m.SettleSteps(action.epoch, action.turn))
            else:
                self._members.send(action.node, m.StepsAgreed(action.epoch, action.steps, action.end))

    # ---- restarts ------------------------------------------------------------------------------------------------------------

    def between(self, name: str) -> bool:
        """Whether the node's trainer is dead, and will be started again."""
        return self.restarts.under_way(name)

    def fell(self, node: NodeState, message: m.Fell) -> None:
        """A trainer has died that may be started again."""
        if self._members.stopping:
            return
        names = [state.name for state in self._nodes.values()]
        group = self.steps.wanted and node.trains  # the others wait for it in their next step
        failed = bool(self._members.failures)
        lost = [state.name for state in self._nodes.values() if state.gone and (group or self.restarts.kind == "group")]
        actions = None if failed or lost else self.restarts.fell(node.name, message.life, names, group=group)
        if actions is None:
            most = self.restarts.most
            times = f"{most} time{'s'[: most != 1]}"
            often = "" if failed else f" (the trainer was started again {times}, as max_restarts says)"
            if lost and not failed:
                often = f" (all are started again together, and {', '.join(lost)} cannot be: its agent is gone)"
            self._members.order([node.name], lambda number: m.GiveUp(number, often))
        elif actions:
            halted = [action.node for action in actions]
            who = "it is" if halted == [node.name] else "all are"
            log.warning("%s; %s started again (max_restarts=%d)", message.failure.summary, who, self.restarts.most)
            for name in halted:
                self._nodes[name].restarts.append(message.failure.summary)
            self._restart(actions)

    def lost(self, node: NodeState, message: m.Lost) -> None:
        """A part of what the node's life that is over leaves."""
        if message.life == self.restarts.life(node.name):
            before = node.losing or m.Lost(message.life, {}, {})
            if len(before.frontier) + len(before.rows) > MOST_LOST:
                return  # who holds the cluster's key could fill the driver's memory otherwise
            node.losing = m.Lost(message.life, before.frontier | message.frontier, before.rows | message.rows)

    def halted(self, node: NodeState, message: m.Halted) -> None:
        """A life is over, and all that it leaves was told."""
        if message.life != self.restarts.life(node.name) or not self.between(node.name):
            return  # it tells again what is known
        lost = node.losing or m.Lost(message.life, {}, {})
        node.begin_anew()
        node.rows_taken, node.newest = message.rows_taken, message.fed
        self._act(self.ledger.lost(node.name, lost.frontier, lost.rows))
        self._restart(self.restarts.halted(node.name, message.life, message.epoch))

    def _restart(self, actions: list[Restart]) -> None:
        begun = [action for action in actions if isinstance(action, Begin) and self._nodes[action.node].trains]
        if self.steps.wanted and begun:
            self.steps.reset()
            self.round += 1
            self._first = begun[0].epoch
        for action in actions:
            life, epoch = action.life, 0
            if isinstance(action, Halt):
                self._members.order([action.node], lambda number, life=life: m.HaltTrainer(number, life))  # type: ignore[misc]
            else:
                epoch = self._nodes[action.node].at = action.epoch
                self._members.order([action.node], lambda number, life=life, epoch=epoch: m.BeginTrainer(number, life, epoch))  # type: ignore[misc]
