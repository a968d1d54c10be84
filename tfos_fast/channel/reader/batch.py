"""A batch: columns of some rows, and whose rows they are. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfos_fast.values.aligned import Values

Columns = dict[str, Values]


@dataclass(slots=True)
class Batch:
    """Columns of some rows, and whose rows they are: (stream, rows) in order."""

    columns: Columns
    rows: int
    origin: list[tuple[int, int]] = field(default_factory=list)
    aliased: bool = False  # some column may lie in a slot


class PlainBatch:
    """A batch whose columns are all aligned, of a fixed shape, and in one slot. Its arrays are made when they are asked for.

    Parameters
    ----------
    cut : callable
        As that of a :class:`Slot`, with ``capsules(start, stop)`` beside it.
    start, rows, stream : int
    """

    __slots__ = ("_columns", "_cut", "_start", "origin", "rows")

    aliased = True

    def __init__(self, cut: Any, start: int, rows: int, stream: int) -> None:
        self._cut = cut
        self._start = start
        self._columns: Columns | None = None
        self.rows = rows
        self.origin = [(stream, rows)]

    @property
    def columns(self) -> Columns:
        """As arrays."""
        if self._columns is None:
            self._columns = self._cut(self._start, self._start + self.rows)
        return self._columns

    def capsules(self) -> list[Any]:
        """As DLPack capsules."""
        capsules: list[Any] = self._cut.capsules(self._start, self._start + self.rows)
        return capsules


class _Renamed(PlainBatch):
    """One whose columns have other names."""

    __slots__ = ("_names",)

    def __init__(self, batch: PlainBatch, names: Sequence[str]) -> None:
        super().__init__(batch._cut, batch._start, batch.rows, batch.origin[0][0])
        self._names = names

    @property
    def columns(self) -> Columns:
        return dict(zip(self._names, super().columns.values(), strict=True))


AnyBatch = Batch | PlainBatch


def renamed(batch: AnyBatch, names: Sequence[str]) -> AnyBatch:
    """The batch with other names for its columns, in order. Memory is not copied."""
    if isinstance(batch, PlainBatch):
        return _Renamed(batch, names)
    columns = dict(zip(names, batch.columns.values(), strict=True))
    return Batch(columns, batch.rows, batch.origin, batch.aliased)


#: Gives the next batch, or so many at most in one. No rows: there are none now. None: the epoch has ended.
Source = Callable[[int], AnyBatch | None]
