"""Rows of a partition as spans: half-open intervals of row numbers, in order, none touching the next. Pure."""

from __future__ import annotations

from collections.abc import Iterable

Span = tuple[int, int]

#: An attempt at a partition, by its number, and the row that comes next of those that it publishes.
Reached = tuple[int, int]

#: No attempt was opened.
NOWHERE: Reached = (-1, 0)

#: The end of a span that goes on to the partition's end, which nobody knows before it was computed.
OPEN = 1 << 62


def join(*parts: Iterable[Span]) -> list[Span]:
    """The rows that are in any of them."""
    out: list[Span] = []
    for begin, end in sorted(span for part in parts for span in part):
        if begin >= end:
            continue
        if out and begin <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((begin, end))
    return out


def without(spans: Iterable[Span], taken: Iterable[Span]) -> list[Span]:
    """The rows that are in the first and not in the second."""
    out: list[Span] = []
    holes = join(taken)
    for begin, end in join(spans):
        for hole_begin, hole_end in holes:
            if hole_end <= begin or hole_begin >= end:
                continue
            if begin < hole_begin:
                out.append((begin, hole_begin))
            begin = hole_end
        if begin < end:
            out.append((begin, end))
    return out


def split(spans: Iterable[Span], rows: int) -> tuple[list[Span], list[Span]]:
    """The first rows of the spans as they are listed, and the others."""
    first: list[Span] = []
    others: list[Span] = []
    for begin, end in spans:
        middle = min(end, begin + rows)
        rows -= middle - begin
        first.append((begin, middle))
        others.append((middle, end))
    return join(first), join(others)


def count(spans: Iterable[Span]) -> int:
    """How many rows they have."""
    return sum(end - begin for begin, end in spans)
