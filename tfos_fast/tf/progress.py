"""Which batches a program was handed by a source that works ahead of it, and how many rows they had: what a checkpoint may cover.

A source is read by a generator, for ``dataset()`` by one that TensorFlow runs ahead of the program. Its items are read in order,
each becomes one or several batches, and their rows are the reader's in the order of its trail. So a number of batches is a number
of rows.
"""

from __future__ import annotations

import threading
from collections import deque

from tfos_fast.channel.reader.batch import AnyBatch, Source
from tfos_fast.channel.reader.position import Trail
from tfos_fast.errors import FormError

_MOST_ITEMS = 1 << 12  # nobody reads further ahead


class Handed:
    """The batches of the newest iterator.

    Parameters
    ----------
    trail : Trail
        Of the reader.
    ahead : bool
        The source is read ahead of the program, which therefore has to say how many batches it has done. For a dataset each
        iterator says it.
    ordered : bool
        Rows come in the order in which they were read. False: they are drawn from a window.
    """

    def __init__(self, trail: Trail, *, ahead: bool, ordered: bool) -> None:
        self.ordered = ordered
        self._trail = trail
        self._lock = threading.Lock()
        self._goes_on = False
        self.begin(ahead=ahead)

    def begin(self, *, ahead: bool) -> None:
        """A new iterator: what those before it have read is done with. Or the newest one is read by another generator."""
        with self._lock:
            self.ahead = ahead
            if self._goes_on:
                self._goes_on = False
                return
            self._epoch, self._ended = self._trail.epoch, False
            self._rows, self._batches = self._trail.total, 0  # before the items
            self._items: deque[list[int]] = deque()  # rows of an item, the batches that it became

    def go_on(self) -> None:
        """The generator that begins next reads on for the newest iterator."""
        with self._lock:
            self._goes_on = True

    def of(self, source: Source) -> Source:
        """The source, whose items are counted."""

        def counted(most: int) -> AnyBatch | None:
            item = source(most)
            with self._lock:
                if item is None:
                    self._ended = True
                else:
                    self._items.append([item.rows, 0 if self.ahead else 1])
                    if len(self._items) > _MOST_ITEMS:
                        rows, batches = self._items.popleft()
                        self._rows += rows
                        self._batches += batches
            return item

        return counted

    def gave(self, batches: int) -> None:
        """The item that was read last was handed on as so many batches."""
        with self._lock:
            self._items[-1][1] = batches

    def covered(self, batches: int | None) -> tuple[int, int]:
        """What a checkpoint covers that was made behind so many batches of this iterator, or, without a number, behind all.

        Returns
        -------
        tuple of int
            How many of the reader's rows, and ends of an epoch.

        Raises
        ------
        FormError
        """
        with self._lock:
            if not self.ordered and (batches is not None or not self._ended):
                raise FormError(
                    "rows of a shuffle window are drawn out of order: only commit() at the end of an epoch, when it is empty"
                )
            if batches is None:
                if self.ahead and not self._ended:
                    raise FormError(
                        "dataset() reads ahead of the program, in mid-epoch: say behind how many batches of this iterator the "
                        "checkpoint was made, commit(batches=...); or commit() when the iterator has ended"
                    )
                return self._rows + sum(rows for rows, _ in self._items), self._trail.epoch if self._ended else self._epoch
            left, rows = batches - self._batches, self._rows
            if left < 0:
                raise FormError(f"batch {batches} of this iterator was handed out too long ago to be told apart")
            for many, parts in self._items:
                if left <= 0:
                    break
                # Of several batches all have the same number of rows.
                rows += many if left >= parts else many // parts * left
                left -= min(left, parts)
            if left > 0:
                raise FormError(f"{batches} batches of this iterator cannot be covered: {batches - left} were handed out")
            return rows, self._epoch
