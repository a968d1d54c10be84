"""Rows into a writer's slots: columns are inferred from the first row, and widened when a row does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfos_fast.channel.codec.row_sources import FlatRows, PickledRows, Rows
from tfos_fast.channel.schema.columns import Schema, expected
from tfos_fast.channel.schema.detect import infer
from tfos_fast.channel.schema.structs import Flattener, outer_names, pairs_of
from tfos_fast.channel.schema.widen import join, outline
from tfos_fast.channel.writer.proposals import Proposals
from tfos_fast.channel.writer.results import ResultReader
from tfos_fast.channel.writer.slot_writer import SlotWriter
from tfos_fast.errors import RowTooLarge, SchemaMismatch
from tfos_fast.native.row_packer import END, FULL, MISFIT, RowPacker

Source = Rows | PickledRows

# How long packing goes on before messages are looked at: short enough to serve a starving reader, long enough to cost nothing.
_TICK_S = 0.01


class RowWriter:
    """Packs rows of a writer's open partition.

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
        self._source: Source | None = None

    def has_more(self) -> bool:
        """Whether rows are left of what was packed last. Takes the next one from its source."""
        if self._source is None:
            return False
        packer = self._slots.packer
        if isinstance(packer, RowPacker) and packer.has_pending:
            return True
        try:
            self._source.peek()
        except StopIteration:
            return False
        except SchemaMismatch:
            return True
        return True

    def pack(self, source: Source) -> Iterator[None]:
        """Pack until the rows end; yields whenever a slot is needed and none is granted, and when results have come."""
        slots, columns = self._slots, self._columns
        self._source = source if columns.flat is None else FlatRows(source, columns.flat)
        if not isinstance(slots.packer, RowPacker):
            slots.publish(whole=True)
            slots.unbind()
            try:
                first = self._source.peek()
            except StopIteration:
                return
            except SchemaMismatch as error:
                raise self._placed(error) from None
            try:
                first = self._flat(first)
                wanted = self._infer(first)
            except SchemaMismatch as error:
                raise slots.located(error, first) from None
            slots.expect()
            self._agree(wanted, first)
            slots.packer = self._new_packer()
        while not slots.terminated:
            packer = slots.packer
            try:
                if not slots.open():
                    yield
                    continue
                stopped = self._source.pack(packer, _TICK_S)
                columns.tell_met()
            except (RowTooLarge, SchemaMismatch) as error:
                packer.take_pending()  # who goes on after this error leaves that row out
                raise self._placed(error, packer) from None
            if stopped == FULL:
                slots.publish()
            elif stopped == MISFIT:
                try:
                    slots.packer = self._widened(packer)
                except SchemaMismatch as error:
                    packer.take_pending()
                    if columns.flat is not None and columns.flat.refused:
                        raise self._placed(error) from None
                    raise
            slots.serve()
            if stopped == END:
                self._source = None
                return
            if self._results.ready:
                yield  # an exchange hands its results on at once: they must not pile up here

    def _flat(self, row: Any) -> Any:
        """The row with its structs taken apart, if some have to be; then all rows behind it are, too."""
        columns, source = self._columns, self._source
        if columns.form.exact or columns.flat is not None:
            return row
        flattener = self._flattener(row)
        if not flattener.wanted(row):
            return row
        assert source is not None
        columns.flat = flattener
        self._source = FlatRows(source, flattener)
        return flattener.row(row)

    def _flattener(self, row: object) -> Flattener:
        form = self._columns.form
        spec = form.spec
        whole = {name for name, (dtype, _) in spec.items() if dtype == "object"}
        agreed = self._columns.agreed
        if agreed is not None:  # of values of several kinds
            whole.update(column.name for column in agreed.columns if column.kind == "object" and column.name not in agreed.structs)
        by_position = form.positional and not spec.keys() <= {name for name, _ in pairs_of(row) or ()}  # then all are wanted
        only = form.only and not by_position
        awaited = spec if form.nulls and not by_position else ()
        return Flattener(outer_names(spec) if only else None, whole, awaited)

    def _infer(self, row: Any) -> Schema:
        """The columns that a row needs, which was taken apart if need be."""
        schema, flat = infer(row, exact=self._columns.form.exact), self._columns.flat
        return schema if flat is None else flat.columns(schema, row)

    def _placed(self, error: SchemaMismatch | RowTooLarge, packer: RowPacker | None = None) -> Exception:
        """The error with the place of its row: too large, not to be taken apart, or with a value that cannot be pickled."""
        flat = self._columns.flat
        if isinstance(error, RowTooLarge):
            return self._slots.located(error)
        if flat is not None and flat.refused:
            return self._slots.located(error, flat.refused.pop())
        name = "" if packer is None or packer.misfit < 0 else f"column {packer.schema.columns[packer.misfit].name!r}: "
        return self._slots.located(SchemaMismatch(f"{name}{error}"))

    def _new_packer(self) -> RowPacker:
        columns = self._columns
        assert columns.agreed is not None
        assert columns.inferred is not None
        # The columns are the feed's; how a row holds them (tuple, Row, dict) is this writer's own matter.
        structure = columns.inferred.structure if columns.flat is None else "dict"
        mine = Schema(structure, columns.agreed.columns)
        return RowPacker(mine, exact=columns.form.exact, cast=bool(columns.form.spec))

    def _widened(self, packer: RowPacker) -> RowPacker:
        """A packer whose columns take the row that did not fit; it is the first that it packs."""
        columns, exact = self._columns, self._columns.form.exact
        assert columns.inferred is not None
        row, column = self._flat(packer.pending), packer.misfit
        before = columns.agreed
        try:
            wider = join(columns.inferred, self._infer(row), exact=exact)
        except SchemaMismatch as error:
            raise self._slots.located(error, row) from None
        self._slots.publish(whole=True)  # nothing of the older schema may stay behind
        self._agree(wider, row)
        if columns.agreed == before:
            assert before is not None
            if column < 0:
                refused = SchemaMismatch(f"rows differ in structure: {outline(before)} and {outline(self._infer(row))}")
            else:
                name, wanted = before.columns[column].name, expected(before.columns[column])
                refused = SchemaMismatch(f"column {name!r}: expected {wanted}, found a value that does not fit")
            raise self._slots.located(refused, row)
        self._slots.unbind()
        packer = self._new_packer()
        packer.set_pending(row if columns.flat is None else columns.flat.row(row))
        return packer

    def _agree(self, wanted: Schema, row: object) -> None:
        """Propose columns; ``row`` needs them."""
        try:
            self._columns.propose(wanted)
        except SchemaMismatch as error:
            raise self._slots.located(error, row) from None
        columns, source = self._columns, self._source
        assert columns.agreed is not None
        if columns.agreed.structs and columns.flat is None:  # rows elsewhere have a struct where ours had nothing but None
            assert source is not None
            columns.flat = self._flattener(row)
            self._source = FlatRows(source, columns.flat)
        if columns.flat is not None:
            columns.flat.know(columns.agreed)
