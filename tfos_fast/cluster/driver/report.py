"""What a feed, and a cluster, tells when it is over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tfos_fast.cluster.coordinator.node_state import NodeState
from tfos_fast.cluster.protocol import messages as m


@dataclass(frozen=True)
class FeedReport:
    """Outcome of ``Cluster.feed``.

    Attributes
    ----------
    rows : int
        Rows that the trainers' processes took, over all epochs. They are counted slot by slot: one that is left in the middle
        counts as not taken. Of a trainer that was started again the rows count that its commits cover, and not those that came
        again, or will.
    seconds : float
        How long the feed took.
    epochs : int
        Epochs that were fed whole or in part.
    partitions : int
        Partitions that were published whole, over all epochs that Spark fed; a replay (``keep``) publishes none. What comes again
        after a restart counts once.
    rows_of_node : dict
        Node name -> rows it took.
    ended_early : dict
        Node name -> why it took no more rows (it called ``terminate()``, or its ``main`` returned) though there were some for it
        or would have been: left rows, the rest of a partition, its share of the partitions that began later, further epochs.
    rows_left : dict
        Node name -> rows that were published to a node and never taken, because it ended early.
    rows_unused : dict
        Node name -> rows that came to a node and were in no step, because with ``uneven="stop"`` another node had no more.
    """

    rows: int
    seconds: float
    epochs: int
    partitions: int
    rows_of_node: dict[str, int] = field(default_factory=dict)
    ended_early: dict[str, str] = field(default_factory=dict)
    rows_left: dict[str, int] = field(default_factory=dict)
    rows_unused: dict[str, int] = field(default_factory=dict)

    @property
    def rows_per_second(self) -> float:
        """Rate over the whole feed."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        text = f"{self.rows} rows in {self.seconds:.2f} s ({self.rows_per_second:,.0f}/s), {self.partitions} partitions"
        for node, why in self.ended_early.items():
            text += f"; {node} {why}"
            if self.rows_left.get(node):
                text += f" with {self.rows_left[node]} rows not taken"
        for node, rows in self.rows_unused.items():
            text += f"; {rows} rows unused at {node}"
        return text


@dataclass(frozen=True)
class NodeReport:
    """What became of one node.

    Attributes
    ----------
    status : int or None
        Exit status of its trainer, negative when a signal ended it; None when it was not started, or nobody could tell.
    rows : int
        Rows that its trainer took, counted slot by slot as in ``FeedReport``, over all its lives; those in no step are among them.
    rows_offered : int
        Rows of named feeds (``Cluster.offer``) that its trainer took, over all its lives; they are not among ``rows``.
    bytes : int
        Of shared memory that was filled for it.
    waited_for_data : float
        Seconds in which its trainer had asked for rows and there were none, until some came.
    waited_for_space : float
        Seconds that feed tasks waited for a free slot, added up over tasks: its trainer was slower than they.
    failure : str
        What happened to it, in one sentence; empty when ``main`` returned.
    restarts : tuple of str
        Why its trainer was started again, each time.
    note : str
        How its trainer's process ended badly after ``main`` had returned, in one sentence. It is no failure.
    """

    status: int | None
    rows: int
    bytes: int
    waited_for_data: float
    waited_for_space: float
    failure: str = ""
    restarts: tuple[str, ...] = ()
    rows_offered: int = 0
    note: str = ""


@dataclass(frozen=True)
class ShutdownReport:
    """Outcome of ``Cluster.shutdown``.

    Attributes
    ----------
    nodes : dict
        Node name -> NodeReport.
    failures : tuple of str
        What happened to nodes, the cause first.
    """

    nodes: dict[str, NodeReport]
    failures: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = []
        for name, node in self.nodes.items():
            offered = f" and {node.rows_offered} of named feeds" if node.rows_offered else ""
            fed = f"{node.rows} rows{offered}, {node.bytes / 2**20:.1f} MiB"
            waits = f"waited {node.waited_for_data:.1f} s for data, feed tasks {node.waited_for_space:.1f} s for space"
            why = "".join(f"; {words}" for words in (node.failure, node.note) if words)
            if many := len(node.restarts):
                why += f"; started again {many} time{'s' * (many > 1)}: {'; '.join(node.restarts)}"
            lines.append(f"{name}: exit status {node.status}, {fed}, {waits}{why}")
        return "\n".join(lines)


def shutdown_report(states: Iterable[NodeState], failures: list[m.Failure]) -> ShutdownReport:
    """What the coordinator has heard, in words."""
    nodes = {
        state.name: NodeReport(
            state.status, state.rows_taken, state.totals.bytes, state.totals.starved, state.totals.blocked,
            state.failure.summary if state.failure else "", tuple(state.restarts), state.totals.offered, state.note,
        )
        for state in sorted(states, key=lambda state: state.name)
    }  # fmt: skip
    return ShutdownReport(nodes, tuple(failure.summary for failure in failures))
