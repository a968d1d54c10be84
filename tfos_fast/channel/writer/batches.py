"""Arrow record batches into a writer's slots, buffer by buffer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from msgspec.structs import replace

from tfos_fast.channel.codec.layout import Layout
from tfos_fast.channel.protocol.messages import Form
from tfos_fast.channel.schema.columns import Column, Schema, Unit
from tfos_fast.channel.schema.widen import join
from tfos_fast.channel.writer.proposals import Proposals
from tfos_fast.channel.writer.results import ResultReader
from tfos_fast.channel.writer.slot_writer import SlotWriter
from tfos_fast.errors import RowTooLarge, SchemaMismatch
from tfos_fast.native.row_packer import RowPacker


class BatchPacker:
    """Copies record batches into the slot that it is bound to; for batches what RowPacker is for rows.

    Parameters
    ----------
    columns : Proposals
    """

    def __init__(self, columns: Proposals) -> None:
        self.layout: Layout | None = None
        self.rows = self.heap_used = 0
        self._columns = columns
        self._window: Any = None

    @property
    def schema(self) -> Schema:
        """The feed's columns."""
        assert self._columns.agreed is not None
        return self._columns.agreed

    @property
    def is_full(self) -> bool:
        """No further row is to be packed into this slot."""
        return self.layout is not None and self.rows == self.layout.capacity

    def bind(self, buffer: Any, layout: Layout, rows: int = 0, heap_used: int | None = None) -> None:
        """Go on in this slot, which has so many rows already."""
        self.layout, self._window = layout, buffer
        self.rows, self.heap_used = rows, heap_used or 0

    def unbind(self) -> None:
        """Let go of the slot, if there is one."""
        self._window, self.rows = None, 0

    def pack(self, batch: Any, start: int, found: Schema) -> int:
        """Copy rows of the batch from ``start`` on, as many as there is room for; returns how many.

        0: the slot, still empty, is laid out anew with more heap.

        Raises
        ------
        SchemaMismatch, RowTooLarge
        """
        from tfos_fast.channel.arrow.pack import pack_batch

        assert self.layout is not None
        into = (self.layout, self._window, self.rows, self.heap_used)
        done, self.heap_used = pack_batch(*into, batch, start, exact=self._columns.form.exact, found=found)
        if done == 0 and self.rows == 0:
            self.layout = self.layout.roomier()
        self.rows += done
        return done


class BatchWriter:
    """Packs record batches of a writer's open partition.

    Parameters
    ----------
    slots : SlotWriter
    columns : Proposals
    results : ResultReader
    """

    def __init__(self, slots: SlotWriter, columns: Proposals, results: ResultReader) -> None:
        self._slots = slots
        self._columns = columns
        self._results = results
        self.has_more = False  # rows are left of the batch that was packed last
        self._units: dict[str, Unit] = {}
        self._structs: tuple[str, ...] = ()
        self._seen: tuple[Any, frozenset[str]] | None = None

    def pack(self, batch: Any) -> Iterator[None]:
        """Pack a batch; yields whenever a slot is needed and none is granted, and when results have come."""
        from tfos_fast.channel.arrow.flatten import arranged, flatten_batch, is_flat, leave_out
        from tfos_fast.channel.arrow.pack import is_fitting

        if batch.num_rows == 0:
            return
        self.has_more = True
        slots, form = self._slots, self._columns.form
        exact = form.exact
        if form.only and not (form.positional and set(form.spec) - set(batch.schema.names)):  # by position all are wanted
            batch = leave_out(batch, form.spec)
        if not exact:
            whole = _whole(form, batch.schema.names)
            self._look(batch.schema, whole)
            try:
                batch = flatten_batch(batch, whole)
            except SchemaMismatch as error:
                raise self._located(error, batch, 0, functools.partial(is_flat, whole=whole)) from None
        if isinstance(slots.packer, RowPacker):
            slots.publish(whole=True)
            slots.forget()
        found = self._found(batch)
        self._agree(batch, found)
        agreed = self._columns.agreed
        if not exact and agreed is not None and agreed.names != found.names:  # another writer's fields, or another order
            batch = arranged(batch, agreed.names)
            found = self._found(batch)
        if slots.packer is None:
            slots.packer = BatchPacker(self._columns)
        packer = slots.packer
        assert isinstance(packer, BatchPacker)
        start = 0
        while start < batch.num_rows and not slots.terminated:
            try:
                if not slots.open():
                    yield
                    continue
                done = packer.pack(batch, start, found)
            except RowTooLarge as error:
                raise slots.located(error) from None
            except SchemaMismatch as error:
                fits = functools.partial(is_fitting, packer.layout.schema, exact=exact)  # type: ignore[union-attr]
                raise self._located(error, batch, start, fits) from None
            if done == 0 and packer.rows == 0:
                continue
            start += done
            slots.serve(full=start < batch.num_rows or packer.is_full)
            if self._results.ready:
                yield
        self.has_more = start < batch.num_rows

    def _look(self, schema: Any, whole: frozenset[str]) -> None:
        """What the columns of a batch are; most batches have those of the one before."""
        from tfos_fast.channel.arrow.flatten import structs_of, units

        if self._seen is None or self._seen[1] != whole or not self._seen[0].equals(schema, check_metadata=True):
            self._seen = schema, whole
            self._units, self._structs = units(schema), structs_of(schema, whole)

    def _agree(self, batch: Any, found: Schema) -> None:
        """Propose columns that take the batch, unless these do."""
        from tfos_fast.channel.arrow.pack import first_hole
        from tfos_fast.channel.arrow.spark_types import named_type

        columns, exact = self._columns, self._columns.form.exact
        wanted, known = found, columns.inferred
        if known is not None and wanted != known:
            try:
                wanted = join(known, wanted, exact=exact)
            except SchemaMismatch as error:
                raise self._slots.located(error) from None
        if wanted == known:
            return
        self._slots.publish(whole=True)
        self._slots.unbind()
        self._slots.expect()
        try:
            columns.propose(wanted)
        except SchemaMismatch as error:
            if known is None:  # the types of the columns alone, or None inside a list
                named = named_type(error, batch.schema)
                row = first_hole(error, batch) if named is error else None
                cause = () if row is None else _row(batch, row)
                raise self._slots.located(named, *cause, ahead=row or 0) from None
            same = lambda part: join(known, self._found(part), exact=exact) == known  # noqa: E731
            raise self._located(error, batch, 0, same) from None

    def _found(self, batch: Any) -> Schema:
        """The schema of a batch, or of rows of it; dates and times have become numbers before."""
        from tfos_fast.channel.arrow.pack import from_arrow

        exact = self._columns.form.exact
        found = from_arrow(batch.schema, batch, exact=exact)
        if exact or not (self._units or self._structs):
            return found
        columns = tuple(_counted(c, self._units[c.name]) if c.name in self._units else c for c in found.columns)
        return Schema(found.structure, columns, self._structs)

    def _located(self, error: SchemaMismatch, batch: Any, start: int, fits: Callable[[Any], bool]) -> SchemaMismatch:
        """The error with the first row, from ``start`` on, that brings it; ``fits`` says whether some rows do not."""
        from tfos_fast.channel.arrow.pack import first_misfit

        ahead = first_misfit(batch, start, fits)
        return self._slots.located(error, *_row(batch, start + ahead), ahead=ahead)


def _row(batch: Any, at: int) -> tuple[Any, ...]:
    """A row for an error to show; nothing where Python has no value for one of its fields."""
    try:
        return tuple(batch.slice(at, 1).to_pylist())
    except (ValueError, OverflowError, TypeError, KeyError, NotImplementedError):
        return ()


def _whole(form: Form, names: list[str]) -> frozenset[str]:
    """Columns that the spec declares ``"object"``."""
    spec = form.spec
    if form.positional and not spec.keys() <= set(names):
        spec = dict(zip(names, spec.values(), strict=True)) if len(spec) == len(names) else {}
    return frozenset(name for name, (dtype, _) in spec.items() if dtype == "object")


@functools.lru_cache(maxsize=1024)
def _counted(column: Column, unit: Unit) -> Column:
    return replace(column, unit=unit) if column.kind in ("fixed", "ragged") else column
