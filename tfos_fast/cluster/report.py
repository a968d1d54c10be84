"""What a feed tells when it is over."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class FeedReport:
    """Outcome of ``Cluster.feed``.

    Attributes
    ----------
    rows : int
        Rows that the trainers' processes took, over all epochs. They are counted slot by slot: one that is left in the middle
        counts as not taken.
    seconds : float
        How long the feed took.
    epochs : int
        Epochs that were fed whole or in part.
    partitions : int
        Partitions that were published whole, over all epochs that Spark fed; a replay (``keep``) publishes none.
    rows_of_node : dict
        Node name -> rows it took.
    ended_early : dict
        Node name -> why it took no more rows (it called ``terminate()``, or its ``main`` returned).
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
