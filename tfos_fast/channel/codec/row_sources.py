"""Where a writer's rows come from: an iterator of Python objects, or pickled batches of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tfos_fast.channel.schema.structs import Flattener
from tfos_fast.native.pickled.batch import StreamBatch
from tfos_fast.native.pickled.pack_rows import pack_stream
from tfos_fast.native.row_packer import END, TICK, RowPacker

_NONE: Any = object()


class Rows:
    """Python objects.

    Parameters
    ----------
    rows : iterable
    """

    def __init__(self, rows: Iterable[Any]) -> None:
        self._rows = iter(rows)
        self._head = _NONE

    def peek(self) -> Any:
        """The next row, which stays the next.

        Raises
        ------
        StopIteration
            There is none.
        """
        if self._head is _NONE:
            self._head = next(self._rows)
        return self._head

    def objects(self) -> Iterator[Any]:
        """All rows that are left."""
        head = [] if self._head is _NONE else [self._head]
        self._head = _NONE
        return itertools.chain(head, self._rows)

    def pack(self, packer: RowPacker, tick_seconds: float) -> int:
        """Pack rows until something happens: see :meth:`RowPacker.pack_from <tfos_fast.native.row_packer.RowPacker.pack_from>`."""
        if self._head is not _NONE:
            packer.set_pending(self._head)
            self._head = _NONE
        return packer.pack_from(self._rows, tick_seconds)


class FlatRows(Rows):
    """Rows of another source, their structs taken apart.

    Parameters
    ----------
    source : Rows or PickledRows
    flattener : Flattener
    """

    def __init__(self, source: Rows | PickledRows, flattener: Flattener) -> None:
        super().__init__(map(flattener.row, source.objects()))
        self._flattener = flattener

    def pack(self, packer: RowPacker, tick_seconds: float) -> int:
        """As that of :class:`Rows`."""
        if self._head is not _NONE:  # it may have been looked at before the feed's columns were known
            self._head = self._flattener.conform(self._head)
        return super().pack(packer, tick_seconds)


class PickledRows:
    """Rows in pickled lists, as Spark keeps those of a stored RDD. What the packer can read in the stream is not unpickled.

    Parameters
    ----------
    batches : iterable of bytes
        Each a pickled list.
    loads : callable
        Unpickles a batch that holds something else than numbers, text, bytes and arrays.
    skip : int
        Rows to leave out at the beginning.
    """

    def __init__(self, batches: Iterable[bytes], loads: Callable[[bytes], list[Any]], skip: int = 0) -> None:
        self._batches = iter(batches)
        self._loads = loads
        self._skip = skip
        self._stream = StreamBatch(loads)
        self._rows: Iterator[Any] | None = None  # of a batch that had to be unpickled

    def peek(self) -> Any:
        """The next row, which stays the next. Unpickles its batch.

        Raises
        ------
        StopIteration
            There is none.
        """
        while True:
            rest = self._stream.rest() if self._rows is None else list(self._rows)
            if self._rows is not None:
                self._rows = iter(rest)
            if rest:
                return rest[0]
            self._load(next(self._batches))

    def objects(self) -> Iterator[Any]:
        """All rows that are left, unpickled."""
        while True:
            yield from self._stream.rest() if self._rows is None else self._rows
            try:
                self._load(next(self._batches))
            except StopIteration:
                self._rows = iter(())
                return

    def pack(self, packer: RowPacker, tick_seconds: float) -> int:
        """Pack rows until something happens: see :meth:`RowPacker.pack_from <tfos_fast.native.row_packer.RowPacker.pack_from>`."""
        until = time.monotonic() + tick_seconds
        while True:
            if self._rows is None:
                event = pack_stream(packer, self._stream, tick_seconds)
            else:
                event = packer.pack_from(self._rows, tick_seconds)
            if event != END:
                return event
            try:
                self._load(next(self._batches))
            except StopIteration:
                return END
            if time.monotonic() >= until:  # batches may be short, and their source slow
                return TICK

    def _load(self, batch: bytes) -> None:
        self._rows = None
        if self._stream.load(batch):
            self._skip -= self._stream.skip(self._skip)
            return
        rows = self._loads(batch)
        self._rows = iter(rows[self._skip :] if self._skip else rows)
        self._skip = max(0, self._skip - len(rows))
