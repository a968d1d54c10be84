"""The slot that a writer fills: opened when one is granted, bound to who packs into it, and published."""

from __future__ import annotations

import contextlib
import mmap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from tfos_fast.channel.codec.fingerprint import Proof, Prover, mark
from tfos_fast.channel.codec.layout import Layout, has_heap, plan
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.messages import INPUT
from tfos_fast.channel.schema.columns import Schema
from tfos_fast.channel.transport.connection import Connection
from tfos_fast.channel.writer.credits import Credits
from tfos_fast.channel.writer.partition import Partition, Unfit
from tfos_fast.channel.writer.proposals import Proposals
from tfos_fast.native.row_packer import move_rows

_NO_SLOT = -1  # the scratch memory


class Packer(Protocol):
    """Writes into the slot that it is bound to."""

    @property
    def schema(self) -> Schema:
        """The columns."""

    @property
    def layout(self) -> Layout | None:
        """Of the slot; another one than it was bound with when an empty slot had to be laid out anew."""

    @property
    def rows(self) -> int:
        """Rows in the slot."""

    @property
    def heap_used(self) -> int:
        """Bytes of the heap that they use."""

    def bind(self, buffer: Any, layout: Layout, rows: int = 0, heap_used: int | None = None) -> None:
        """Go on in this slot, which has so many rows already."""

    def unbind(self) -> None:
        """Let go of the slot, if there is one."""


@dataclass
class Scratch:
    """Memory of our own in place of slots: rows are packed to be compared, and not published."""

    memory: memoryview
    proof: Proof = field(default_factory=Proof)


class SlotWriter:
    """Opens, fills and publishes slots, one at a time.

    Parameters
    ----------
    connection : Connection
    credits : Credits
    partition : Partition
        Its rows go on as slots are published.
    columns : Proposals

    Attributes
    ----------
    packer : Packer or None
        Who packs into the slots; exchanged only while none is open.
    dropped : bool
        Rows of the open partition, or the last one, were packed and not published: the reader wants no more.
    """

    def __init__(self, connection: Connection, credits: Credits, partition: Partition, columns: Proposals) -> None:
        self.packer: Packer | None = None
        self.dropped = False
        self._conn = connection
        self._credits = credits
        self._partition = partition
        self._columns = columns
        self._slot: int | None = None
        self._window: Any = None
        self._layout: Layout | None = None
        self._heap_per_row = 64.0
        self._prover = Prover()
        self._scratch: Scratch | None = None
        self._filled = 0.0  # when the last slot was full

    @property
    def terminated(self) -> bool:
        """The reader wants no more rows."""
        return self._credits.terminated

    @property
    def position(self) -> int:
        """Rows of the partition until now: published, left out, or in the open slot."""
        return self._partition.rows + (self.packer.rows if self.packer is not None and self._slot is not None else 0)

    def located(self, error: Unfit, *cause: Any, ahead: int = 0) -> Unfit:
        """The error of the row that comes next, or so many rows later; ``cause``: the row."""
        return self._partition.located(error, self.position + ahead, *cause)

    def open(self) -> bool:
        """Whether a slot is open for packing; opens a granted one, or asks for one and does not wait."""
        if self._slot is not None:
            return True
        if self._scratch is not None:
            self._bind()
            return True
        if not self._credits.granted:
            self._want()
            self._conn.pump()
        if self._credits.granted:
            self._bind()
        return self._slot is not None

    def serve(self, *, full: bool = False) -> None:
        """Look at messages after some packing; publish if the slot is full, or the reader waits."""
        self._conn.glance()
        if self._credits.flush and self._conn.flush():
            self._credits.flush = False  # whole slots that were held back are what the reader waits for
        if full or self._credits.flush:
            self.publish()

    def unbind(self) -> None:
        """Close the slot without publishing it: what it holds is dropped."""
        if self.packer is not None:
            self.packer.unbind()
        self._window = None
        if self._slot is not None:
            if self._slot != _NO_SLOT:
                self._credits.granted.appendleft(self._slot)
            self._slot = None

    def forget(self) -> None:
        """Rows of another kind are to come: what is open is dropped, the columns are agreed on anew."""
        self.unbind()
        self.packer = None
        self._columns.forget()

    @contextlib.contextmanager
    def comparing(self) -> Iterator[Scratch]:
        """Meanwhile rows are packed into scratch memory, which sums up their proof."""
        self._scratch = Scratch(memoryview(mmap.mmap(-1, self._conn.segment.slot_bytes)))
        try:
            yield self._scratch
        finally:
            self.unbind()
            self._scratch = None

    def publish(self, *, whole: bool = False) -> None:
        """Publish the open slot: whole batches if there is one, or with ``whole`` all of it."""
        if self._slot is None:
            return
        packer, partition, credits = self.packer, self._partition, self._credits
        assert packer is not None
        assert partition.stream is not None
        rows = packer.rows
        if rows == 0 or credits.terminated:
            self.dropped = self.dropped or (rows > 0 and self._scratch is None)
            return
        hold = self._may_hold() and not whole
        if self._scratch is None:
            credits.flush = False  # only now: a reader that starved before the first row came still waits for it
        heap = packer.heap_used
        self._heap_per_row = max(1.0, 1.05 * heap / rows)
        # The packer may have laid an empty slot out anew, with more heap, for a row larger than those before.
        filled = packer.layout
        assert filled is not None
        slot, window, batch = self._slot, self._window, self._columns.form.batch
        tail = rows % batch if batch and rows > batch and not whole and self._scratch is None else 0
        if tail and not credits.granted:
            tail = 0  # no slot to move it to; the reader merges
        packer.unbind()
        self._window, self._slot = None, None
        proof = 0 if partition.exchange else self._prover.total(filled, window, partition.rows, rows - tail)
        if self._scratch is not None:
            self._scratch.proof = self._scratch.proof.extended(proof, mark(filled.schema.columns))
            partition.rows += rows
            return
        if tail:
            self._bind_tail(packer, filled, window, rows - tail, rows)
        want = not whole and not credits.wanted
        credits.wanted = credits.wanted or want
        used = filled.heap * rows // filled.capacity + heap
        message = m.Publish(slot, partition.stream, rows - tail, filled.capacity, self._columns.schema_id, want, used, proof)
        (self._conn.hold if hold else self._conn.send)(message)
        partition.rows += rows - tail

    def expect(self) -> None:
        """Rows are to be packed soon: a slot, if none is in hand, is asked for together with what is said next."""
        if self._slot is None and self._scratch is None and not self._credits.granted and not self._credits.wanted:
            self._conn.hold(m.Want(INPUT))
            self._credits.wanted = True

    def _want(self) -> None:
        if not self._credits.wanted:
            self._conn.send(m.Want(INPUT))
            self._credits.wanted = True

    def _take(self) -> None:
        self._slot = self._credits.granted.popleft()
        if not self._credits.granted:
            self._want()  # the next one is on its way while this one fills
        self._window = self._conn.segment.window(self._slot)

    def _bind(self) -> None:
        assert self.packer is not None
        schema = self.packer.schema
        if self._layout is None or self._layout.schema != schema or has_heap(schema):  # before a slot is taken: it may refuse
            heap = self._heap_per_row if has_heap(schema) else 0.0
            batch = 1 if self._columns.form.exact else self._columns.form.batch
            self._layout = plan(schema, self._conn.segment.slot_bytes, batch=batch, heap_per_row=heap)
        if self._scratch is not None:
            self._slot, self._window = _NO_SLOT, self._scratch.memory
        else:
            self._take()
        self.packer.bind(self._window, self._layout, 0)

    def _bind_tail(self, packer: Packer, filled: Layout, window: Any, start: int, stop: int) -> None:
        """Move the rows behind the last whole batch to the beginning of the next slot, so that its batches stay aligned."""
        self._take()
        heap = move_rows(filled, window, start, stop, filled, self._window)
        self._layout = filled
        packer.bind(self._window, filled, stop - start, heap)

    def _may_hold(self) -> bool:
        """Whether the open slot may be told of with the next one: each message wakes the broker.

        Only while slots fill within moments, so that the next one comes soon, and two more are in hand: the broker is to grant
        others before the last one is full.
        """
        last, self._filled = self._filled, time.monotonic()
        quick = self._filled - last < self._conn.hold_s and len(self._credits.granted) >= 2
        return quick and not (self._credits.flush or self._partition.exchange)
