"""Results on their way back: packed into slots of the output pool and published to the writer of their stream."""

from __future__ import annotations

from collections import deque
from itertools import groupby
from typing import Any

import numpy as np

from tfos_fast.channel.codec.decode import columns
from tfos_fast.channel.codec.layout import layout as lay_out
from tfos_fast.channel.codec.layout import plan
from tfos_fast.channel.codec.result_arrays import Block
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.messages import OUTPUT
from tfos_fast.channel.reader.owed import Owed
from tfos_fast.channel.schema.columns import Schema
from tfos_fast.channel.schema.detect import infer
from tfos_fast.channel.schema.widen import join
from tfos_fast.channel.transport.connection import Connection
from tfos_fast.native.nt_copy import copy
from tfos_fast.native.row_packer import END, FULL, MISFIT, RowPacker

_FLUSH_ROWS = 4096
_FLUSH_BYTES = 1 << 20  # of arrays: larger ones are packed at once, and not copied before


class ResultWriter:
    """Collects results per stream and publishes them when many have come or the reader is about to wait.

    Rows are packed one by one, blocks by copies of memory.

    Parameters
    ----------
    connection : Connection
        The reader's.

    Attributes
    ----------
    given : deque
        Results that some thread gave and nobody has taken: (stream, results).
    """

    def __init__(self, connection: Connection) -> None:
        self._conn = connection
        self._buffered: dict[int, list[list[Any] | Block]] = {}
        self._count = self._bytes = 0
        self._schema: Schema | None = None  # of results that are rows
        self._schema_id = -1
        self._block_ids: dict[Schema, int] = {}
        self._granted: deque[int] = deque()
        self.given: deque[tuple[int, list[Any] | Block]] = deque()
        self._owed = Owed()
        self._training: set[int] = set()  # streams whose rows get no result

    @property
    def owed(self) -> int:
        """Rows that were handed out and have no result yet."""
        return self._owed.rows

    def note(self, stream: int, *, answered: bool) -> None:
        """Rows of a stream have come; ``answered``: each gets a result."""
        if not answered:
            self._training.add(stream)

    def owe(self, origin: list[tuple[int, int]]) -> None:
        """The calling thread was handed rows: (stream, rows) in order."""
        if self._training:
            self._owed.owe([(None if stream in self._training else stream, rows) for stream, rows in origin])
        else:
            self._owed.owe(origin)

    def forgive(self) -> None:
        """No more results are expected."""
        self._owed.forgive()

    # ---- on any thread -------------------------------------------------------------------------------------------------------

    def give(self, results: list[Any] | Block, *, later: bool = False) -> None:
        """Give results of rows that were handed out; ``take`` or ``flush`` sends them. See :class:`Owed` for whose they are.

        Parameters
        ----------
        results : list or Block
        later : bool
            The program may change the block's arrays before they are sent.

        Raises
        ------
        ValueError
            There are more of them than rows without a result.
        """
        self._owed.answer(results.copy() if later and isinstance(results, Block) else results, self.given)

    # ---- on one thread at a time ---------------------------------------------------------------------------------------------

    def take(self) -> None:
        """Take what was given. Many results, or large ones, are published at once."""
        while self.given:
            self.add(*self.given.popleft())

    def granted(self, slots: list[int]) -> None:
        """Slots of the output pool arrived."""
        self._granted.extend(slots)

    def add(self, stream: int, results: list[Any] | Block) -> None:
        """Take results of a stream, in order. The program may write to a block's arrays afterwards."""
        large = isinstance(results, Block) and results.nbytes >= _FLUSH_BYTES
        self._keep(stream, results.copy() if isinstance(results, Block) and not large else results)
        if large or self._count >= _FLUSH_ROWS or self._bytes >= _FLUSH_BYTES:
            self.flush()

    def _keep(self, stream: int, results: list[Any] | Block) -> None:
        if isinstance(results, Block):
            self._bytes += results.nbytes
        self._buffered.setdefault(stream, []).append(results)
        self._count += len(results)

    def flush(self) -> None:
        """Publish everything. Waits for slots of the output pool: feeders drain it even while they wait themselves."""
        while self.given:
            self._keep(*self.given.popleft())
        buffered, self._buffered, self._count, self._bytes = self._buffered, {}, 0, 0
        try:
            for stream, results in buffered.items():
                for schema, parts in groupby(results, lambda part: part.schema if isinstance(part, Block) else None):
                    if schema is None:
                        self._pack_rows(stream, [row for part in parts for row in part])  # type: ignore[union-attr]
                    else:
                        self._pack_blocks(stream, schema, list(parts))  # type: ignore[arg-type]
        finally:
            self._give_back()

    def _pack_rows(self, stream: int, results: list[Any]) -> None:
        if not results:
            return
        source = iter(results)
        packer: RowPacker | None = None
        pending: list[Any] = [next(source)]
        stopped = MISFIT
        while stopped != END:
            if stopped == MISFIT:
                self._agree(pending[0])
                assert self._schema is not None
                packer = RowPacker(self._schema, exact=True)
                packer.set_pending(pending[0])
            assert packer is not None
            assert self._schema is not None
            slot = self._slot()
            where = plan(self._schema, self._conn.segment.slot_bytes, batch=1, heap_per_row=64.0)
            packer.bind(self._conn.segment.window(slot), where, 0)
            try:
                while (stopped := packer.pack_from(source, 1.0)) not in (END, FULL, MISFIT):
                    pass
                count = packer.rows
                if stopped == MISFIT:
                    pending = [packer.pending]
            except BaseException:
                self._granted.append(slot)  # a result larger than a slot, for example
                raise
            finally:
                packer.unbind()
            filled = packer.layout
            if count == 0 or filled is None:
                self._granted.append(slot)
                continue
            self._conn.send(m.Publish(slot, stream, count, filled.capacity, self._schema_id))

    def _pack_blocks(self, stream: int, schema: Schema, blocks: list[Block]) -> None:
        if schema not in self._block_ids:
            self._block_ids[schema] = self._register(schema).schema_id
        where = plan(schema, self._conn.segment.slot_bytes, batch=1, heap_per_row=0.0)
        left = sum(len(block) for block in blocks)
        source = iter(blocks)
        block, at = next(source), 0
        while left:
            slot = self._slot()
            count = min(left, where.capacity)
            # A layout for as many rows as there are: a slot that is not full has its columns close together.
            filled = where if count == where.capacity else lay_out(schema, count, self._conn.segment.slot_bytes)
            regions = [np.asarray(region) for region in columns(filled, self._conn.segment.window(slot), 0, count).values()]
            done = 0
            while done < count:
                if at == len(block):
                    block, at = next(source), 0
                    continue
                some = min(count - done, len(block) - at)
                for region, array in zip(regions, block.arrays, strict=True):
                    _copy(region[done : done + some], array[at : at + some])
                done += some
                at += some
            left -= count
            self._conn.send(m.Publish(slot, stream, count, filled.capacity, self._block_ids[schema]))

    def _give_back(self) -> None:
        while self._granted and self._conn.failure is None:
            self._conn.send(m.GiveBack(self._granted.popleft()))

    def _agree(self, row: Any) -> None:
        wanted = infer(row, exact=True)
        if self._schema is not None:
            wanted = join(self._schema, wanted, exact=True)
        if wanted != self._schema:
            agreed = self._register(wanted)
            self._schema, self._schema_id = agreed.schema, agreed.schema_id

    def _register(self, schema: Schema) -> m.Agreed:
        self._conn.send(m.Register(schema))
        return self._conn.ask(m.Agreed, "the schema of results")

    def _slot(self) -> int:
        if not self._granted:
            self._conn.send(m.Want(OUTPUT))
            self._conn.wait(lambda: True if self._granted else None, "a free slot for results (feeders must take theirs)")
        return self._granted.popleft()


def _copy(region: np.ndarray, values: np.ndarray) -> None:
    if values.flags.c_contiguous:
        copy(region, values)
    else:
        region[...] = values
