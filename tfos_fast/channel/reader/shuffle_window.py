"""The shuffle window: rows drawn at random from the last ``rows`` that came, gathered straight from the slots they lie in.

The window keeps, for each row in it, which run it belongs to and where it lies there; the runs' memory is not touched before a row
is drawn, and then copied once, column by column, into the new batch. A run is what came in one piece, mostly the rows of a slot,
which is held until the last of its rows was drawn. A window may hold ``most_held`` slots. Of more, the one with the fewest rows
left is left for a private copy of these, so that writers always have slots, and few rows are copied twice. Private copies whose
rows are mostly drawn are joined, so that memory stays below twice the window's rows, beside the slots.

What is drawn depends on the seed and on the order of the rows, not on how they were cut into runs. Pure: no sockets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tfos_fast.channel.reader.batch import Columns
from tfos_fast.native import shuffle
from tfos_fast.values.aligned import Values, aligned_empty
from tfos_fast.values.ragged import Ragged, concatenate


@dataclass(slots=True)
class _Run:
    columns: Columns
    rows: int
    held: bool  # it aliases a slot


class Window:
    """A window of rows to draw from.

    Parameters
    ----------
    rows : int
        Rows to draw from; more when a batch has more.
    random : numpy.random.Generator
        Seeded alike, it draws the same rows when they come in the same order.
    most_held : int
        Slots that the window may hold, at least one.

    Attributes
    ----------
    compacted : int
        Rows that were copied to private memory so that their slot could go.
    """

    def __init__(self, rows: int, random: np.random.Generator, *, most_held: int) -> None:
        self.compacted = 0
        self._most_held = max(1, most_held)
        self._runs: list[_Run | None] = []
        self._live = np.zeros(16, np.int64)  # rows of each run that are in the window or still to enter it
        self._count = 0
        self._source = np.empty(rows, np.int32)  # the window: for each row in it its run, and
        self._row = np.empty(rows, np.int32)  # where it lies in there
        self._entering: tuple[int, int] | None = None  # a run whose rows have not all entered: its number, and the next row
        self.configure(rows, random)

    def configure(self, rows: int, random: np.random.Generator) -> None:
        """Draw in another way from now on; the rows stay."""
        self._rows = rows
        self._random = random
        self._grow(rows)

    def clear(self) -> None:
        """Drop all rows."""
        self._runs.clear()
        self._live[:] = 0
        self._count = 0
        self._entering = None

    @property
    def waiting_rows(self) -> int:
        """Rows that were pushed and not drawn."""
        return int(self._live.sum())

    @property
    def private_rows(self) -> int:
        """Rows that private copies have room for."""
        return sum(run.rows for run in self._runs if run is not None and not run.held)

    @property
    def held(self) -> int:
        """Runs that alias a slot."""
        return sum(1 for run in self._runs if run is not None and run.held)

    def push(self, columns: Columns, rows: int, *, held: bool) -> None:
        """Rows to draw from. Memory is not copied.

        Parameters
        ----------
        columns : dict
            Column name -> C-contiguous array of ``rows`` rows, or a ragged column.
        rows : int
        held : bool
            They alias a slot.
        """
        assert self._entering is None
        if not rows:
            return
        number = next((i for i, run in enumerate(self._runs) if run is None), len(self._runs))
        if number == len(self._runs):
            self._runs.append(None)
            if number == len(self._live):
                self._live = np.concatenate([self._live, np.zeros_like(self._live)])
        self._runs[number] = _Run(columns, rows, held)
        self._live[number] = rows
        self._entering = (number, 0)
        self._enter()
        self._bound()

    def draw(self, n: int, most: int = 1, *, last: bool = False) -> tuple[Columns, int] | None:
        """Batches of ``n`` rows, drawn one after the other and laid together. Copies each value once.

        Parameters
        ----------
        n : int
            Rows in a batch.
        most : int
            So many batches at most; fewer when the next one needs another run.
        last : bool
            No more rows come: draw from what there is, and in the end give a short batch.

        Returns
        -------
        (dict, int) or None
            New aligned arrays by column name, and their number of rows. None: another run is wanted; with ``last``: the end.
        """
        self._grow(max(self._rows, n))
        drawn: list[tuple[np.ndarray, np.ndarray]] = []
        while len(drawn) < most:
            self._enter(n)
            if not last and self._count < max(self._rows, n):
                break
            size = min(n, self._count)
            if not size or (size < n and drawn):
                break
            source, row = np.empty(size, np.int32), np.empty(size, np.int32)
            shuffle.pick(self._source, self._row, self._count, self._random.random(size), source, row, self._live)
            self._count -= size
            drawn.append((source, row))
        if not drawn:
            return None
        source, row = drawn[0] if len(drawn) == 1 else (np.concatenate(parts) for parts in zip(*drawn, strict=True))
        columns = self._gather(source, row)
        for number in np.unique(source).tolist():
            if not self._live[number]:
                self._runs[number] = None
        return columns, len(row)

    def _grow(self, rows: int) -> None:
        """Room for so many entries."""
        if len(self._source) < rows:
            more = np.empty(rows - len(self._source), np.int32)
            self._source, self._row = np.concatenate([self._source, more]), np.concatenate([self._row, more])

    def _enter(self, n: int = 0) -> None:
        """Fill the window up with rows of the run that came last."""
        if self._entering is None:
            return
        number, at = self._entering
        run = self._runs[number]
        assert run is not None
        size = min(run.rows - at, max(self._rows, n) - self._count)
        if size > 0:
            self._source[self._count : self._count + size] = number
            self._row[self._count : self._count + size] = np.arange(at, at + size, dtype=np.int32)
            self._count += size
            at += size
        self._entering = None if at == run.rows else (number, at)

    def _bound(self) -> None:
        """Hold no more slots than allowed, and no more private memory than the rows in the window need."""
        held = [i for i, run in enumerate(self._runs) if run is not None and run.held]
        newest = self._entering[0] if self._entering else -1
        while len(held) > self._most_held:
            number = min((i for i in held if i != newest), key=lambda i: int(self._live[i]))
            held.remove(number)
            self._compact([number])
        private = {i: run.rows for i, run in enumerate(self._runs) if run is not None and not run.held and i != newest}
        live = sum(int(self._live[i]) for i in private)
        if sum(private.values()) > 2 * live + 64:
            self._compact(list(private))

    def _compact(self, numbers: list[int]) -> None:
        """Copy what is left of these runs to one private run."""
        where = np.nonzero(np.isin(self._source[: self._count], np.array(numbers, np.int32)))[0]
        columns = self._gather(self._source[where], self._row[where])
        first = numbers[0]
        for number in numbers:
            self._runs[number] = None
            self._live[number] = 0
        self._runs[first] = _Run(columns, len(where), held=False)
        self._live[first] = len(where)
        self._source[where] = first
        self._row[where] = np.arange(len(where), dtype=np.int32)
        self.compacted += len(where)

    def _gather(self, source: np.ndarray, row: np.ndarray) -> Columns:
        used = np.unique(source).tolist()
        first = self._runs[used[0]]
        assert first is not None
        return {name: self._column(name, array, source, row, used) for name, array in first.columns.items()}

    def _column(self, name: str, like: Values, source: np.ndarray, row: np.ndarray, used: list[int]) -> Values:
        parts: list[Any] = [None] * len(self._runs)
        for number in used:
            run = self._runs[number]
            assert run is not None
            parts[number] = run.columns[name]
        if isinstance(like, Ragged):
            one_by_one = zip(source.tolist(), row.tolist(), strict=True)
            return concatenate([parts[number][at : at + 1] for number, at in one_by_one] or [like[0:0]])
        if like.dtype.hasobject:
            out = np.empty(len(row), object)
            for number in used:
                mine = source == number
                out[mine] = parts[number][row[mine]]
            return out
        out = aligned_empty((len(row), *like.shape[1:]), like.dtype)
        if out.size:
            shuffle.gather(out, parts, source, row, out.nbytes // len(row))
        return out
