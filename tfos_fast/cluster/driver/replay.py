"""Epochs that the nodes replay from what they keep, as the driver orders and watches them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from tfos_fast.channel.host.segment import parse_bytes
from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.coordinator.node_state import NodeState
from tfos_fast.cluster.protocol import messages as m

KINDS = ("memory", "disk")


def check_keep(keep: Any, limit: int | str | None) -> int:
    """The limit in bytes (0: none was given).

    Raises
    ------
    ValueError
        ``keep`` is no kind of store, or the limit no size, or there is a limit and nothing to keep.
    """
    if keep is not None and keep not in KINDS:
        raise ValueError(f"keep={keep!r} is none of 'memory', 'disk' and None")
    if limit is not None and keep is None:
        raise ValueError(f"keep_limit={limit!r} bounds what is kept: give keep='memory' or keep='disk', too")
    return 0 if limit is None else parse_bytes(limit, "keep_limit")


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for the order of one epoch, the same on every run."""
    return random.Random(f"{seed}/{epoch}").getrandbits(62)


class EpochEnds:
    """The end of an epoch, on which nodes that go in step agree; at once when none does."""

    error: Exception | None = None

    def __init__(self, coordinator: Coordinator) -> None:
        self._steps = coordinator.steps
        coordinator.finish_epoch()

    @property
    def done(self) -> bool:
        """Whether there is nothing left to agree on."""
        return self._steps.over or not self._steps.wanted

    def cancel(self) -> None:
        """Nothing runs."""


class RowsTaken:
    """All rows are with their trainers. For tasks that did not wait for that themselves. Made when the last row is published."""

    error: Exception | None = None

    def __init__(self, coordinator: Coordinator) -> None:
        self._nodes = coordinator.nodes
        self._before = {name: node.beat for name, node in self._nodes.items()}

    @property
    def done(self) -> bool:
        """Whether every node that takes rows has told since that it has taken all."""
        return all(not node.eats or self._taken(node) for node in self._nodes.values())

    def _taken(self, node: NodeState) -> bool:
        beat = node.beat
        return beat is not None and beat is not self._before[node.name] and beat.rows_taken == beat.rows_published

    def cancel(self) -> None:
        """Nothing runs."""


class EpochReplay:
    """One epoch that every node replays: like a SparkJob for whoever watches it, without Spark."""

    error: Exception | None = None

    def __init__(self, coordinator: Coordinator, names: Iterable[str], seed: int | None) -> None:
        self._nodes = coordinator.nodes
        self._number = coordinator.post(names, lambda number: m.ReplayEpoch(number, seed))

    @property
    def done(self) -> bool:
        """Whether every row was taken by each trainer that still takes rows."""
        return all(self._number in state.acks or not state.eats for state in self._nodes.values())

    def cancel(self) -> None:
        """Nothing runs that could be cancelled: what a trainer does not take stays where it is."""
