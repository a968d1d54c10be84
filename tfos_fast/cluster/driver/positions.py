"""Positions of an earlier application's nodes (``feed.position()``), put together: where a feed goes on. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tfos_fast.channel.protocol.row_spans import Span, join


@dataclass(frozen=True)
class Start:
    """Where a feed begins.

    Attributes
    ----------
    epoch : int
        The first one that is not over, among all that the earlier application fed.
    rows : dict
        Epoch -> partition -> rows that some node was handed.
    """

    epoch: int = 0
    rows: dict[int, dict[int, list[Span]]] = field(default_factory=dict)


def start_of(position: Any) -> Start:
    """Read what ``feed(position=)`` was given.

    Parameters
    ----------
    position : None, dict or sequence of dict
        One for each node that the earlier application fed.

    Raises
    ------
    ValueError
        It is none, or the nodes were too far apart.
    """
    if position is None:
        return Start()
    try:
        parts = [position] if isinstance(position, dict) else list(position)
        read = [
            (
                int(part["epoch"]),
                {
                    int(epoch): {int(number): join((int(begin), int(end)) for begin, end in spans) for number, spans in of.items()}
                    for epoch, of in part["rows"].items()
                },
            )
            for part in parts
        ]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"position= takes what feed.position() gave, of each node: {error!r} in {position!r:.200}") from None
    if not read:
        raise ValueError("position= takes the positions of all nodes, and the list is empty")
    first = min(epoch for epoch, _ in read)
    newest = max(epoch for epoch, _ in read)
    if newest > first + 1:
        raise ValueError(
            f"the positions lie in epochs {first} to {newest}: a node tells of the rows of its epoch and the one before only. "
            "Save them with one checkpoint, or each as often as the others"
        )
    rows: dict[int, dict[int, list[Span]]] = {}
    for _, of_node in read:
        for epoch, of_epoch in of_node.items():
            for number, spans in of_epoch.items():
                there = rows.setdefault(epoch, {})
                there[number] = join(there.get(number, []), spans)
    return Start(first, {epoch: of for epoch, of in rows.items() if epoch >= first})
