"""Where a feed's batches come from: its reader's in their order, drawn from a shuffle window, or in step with other nodes.

What lives longer than one iterator is kept here: the window, the steps, and which batches the program was handed.
"""

from __future__ import annotations

from typing import Any, Literal

from tfos_fast.channel.protocol.lockstep import Pace
from tfos_fast.channel.reader.batch import AnyBatch, Source, renamed
from tfos_fast.channel.reader.lockstep_batches import Stepper
from tfos_fast.channel.reader.reader import Reader
from tfos_fast.channel.schema.columns import Column
from tfos_fast.errors import FormError
from tfos_fast.tf import padding, specs
from tfos_fast.tf.dataset import Shuffled
from tfos_fast.tf.declarations import column, is_whole, not_whole, row_spec
from tfos_fast.tf.progress import Handed

Uneven = Literal["stop", "pad"] | None


class BatchSources:
    """The sources of one feed.

    Parameters
    ----------
    reader : Reader

    Attributes
    ----------
    handed : Handed or None
        None: the program has what the reader has handed out.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.handed: Handed | None = None
        self._shuffled: Shuffled | None = None
        self._stepper: Stepper | None = None

    @property
    def waiting_rows(self) -> int:
        """Rows that lie in the shuffle window."""
        return 0 if self._shuffled is None else self._shuffled.waiting_rows

    def clear(self) -> None:
        """Drop the window's rows."""
        if self._shuffled is not None:
            self._shuffled.clear()

    def begin(self, *, ordered: bool) -> Handed:
        """What a new dataset hands out is counted from here on."""
        self.handed = Handed(self._reader.trail, ahead=True, ordered=ordered)
        return self.handed

    def source(self, n: int, shuffle: int, seed: int | None, timeout: float | None) -> Source:
        """Batches of ``n`` rows of one epoch after the other, in order or from a window of ``shuffle`` rows.

        With a timeout there are no rows in what is given when none came for so many seconds.
        """
        if shuffle:
            self._shuffled = self._shuffled or Shuffled(self._reader)
            return self._shuffled.source(n, shuffle, seed, timeout)

        def in_order(most: int) -> AnyBatch | None:
            return self._reader.next_batch(n, epoch_ends=True, timeout=timeout, most=most)

        return in_order

    def in_step(
        self,
        uneven: Uneven,
        n: int,
        spec: Any,
        nulls: Any,
        group: int = 1,
        shuffle: int = 0,
        seed: int | None = None,
        drop_remainder: bool = False,
        *,
        known: bool = False,
    ) -> tuple[Source, list[Column]]:
        """A source of batches in step with other nodes, and the columns that the spec declares.

        Parameters
        ----------
        uneven : {"stop", "pad"}
        n, spec, nulls
            Of the batches.
        group : int
            Batches of a step.
        shuffle, seed, drop_remainder
            As for ``DataFeed.dataset``.
        known : bool
            It is for a dataset, for which ``begin`` was called: its elements must be known beforehand.

        Raises
        ------
        ValueError
            ``uneven`` is neither.
        FormError
            The spec leaves something to the rows, where it may not.
        """
        if uneven not in ("stop", "pad"):
            raise ValueError(f"uneven={uneven!r} is none of 'stop', 'pad' and None")
        declared = row_spec(spec)
        if (known or uneven == "pad") and not is_whole(declared, nulls):
            raise not_whole(spec)
        if uneven == "pad" and padding.WEIGHT in declared:
            raise FormError(f'a column is called {padding.WEIGHT!r}, as that of the weights of uneven="pad"; rename it')
        self._reader.go_in_step(Pace(uneven, n, group, shuffle, drop_remainder and uneven == "stop"))
        if self._stepper is None:
            source = self.source(n, shuffle, seed, 0.0)
            self._stepper = Stepper(self._reader, source, self.clear)
        if not known:  # the generator is the program's own
            self.handed = Handed(self._reader.trail, ahead=False, ordered=True)
        assert self.handed is not None
        steps = self.by_place(self.handed.of(self._stepper), spec)
        columns = [column(name, *part) for name, part in declared.items()]
        return (padding.Padded(steps, columns, n) if uneven == "pad" else steps), columns

    def by_place(self, source: Source, spec: Any) -> Source:
        """The source, its columns called as a tuple's spec calls them, where the rows' own names are others."""
        if not specs.is_positional(spec):
            return source
        leaves = list(specs.leaves(spec))

        def take(most: int) -> AnyBatch | None:
            batch = source(most)
            schema = self._reader.schema
            if batch is None or not batch.rows or schema is None or set(leaves) <= set(schema.names):
                return batch
            return renamed(batch, leaves)

        return take

    def covered(self, batches: int | None) -> tuple[int | None, int | None]:
        """The rows and the ends of an epoch that a checkpoint covers, made behind so many batches; None: all that was handed out.

        Raises
        ------
        FormError
        """
        if self.handed is not None:
            return self.handed.covered(batches)
        if batches is not None:
            raise FormError("commit(batches=) is for dataset(), which reads ahead; other ways of reading need no number")
        return None, None


__all__ = ["BatchSources", "Uneven"]
