"""Rows into a writer's slots: columns are inferred from the first row, and widened when a row does not fit."""

from __future__ import annotations

from collections.abc import Iterator

from tfos_fast._pack import END, FULL, MISFIT, RowPacker
from tfos_fast.channel.infer import infer
from tfos_fast.channel.lattice import join
from tfos_fast.channel.proposals import Proposals
from tfos_fast.channel.results import ResultReader
from tfos_fast.channel.schema import Schema, expected
from tfos_fast.channel.slotwriter import SlotWriter
from tfos_fast.channel.sources import PickledRows, Rows
from tfos_fast.channel.structs import flatten, has_structs, outer_names
from tfos_fast.errors import RowTooLarge, SchemaMismatch

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
        return True

    def pack(self, source: Source) -> Iterator[None]:
        """Pack until the rows end; yields whenever a slot is needed and none is granted, and when results have come."""
        slots, columns = self._slots, self._columns
        self._source = source
        if not isinstance(slots.packer, RowPacker):
            slots.publish(whole=True)
            slots.unbind()
            try:
                first = source.peek()
            except StopIteration:
                return
            if columns.flat is None:
                columns.flat = not columns.form.exact and has_structs(first, self._outer)
            if columns.flat:
                source = self._source = Rows(flatten(source.objects(), self._outer))
                first = source.peek()
            wanted = infer(first, exact=columns.form.exact)
            slots.expect()
            self._agree(wanted, first)
            slots.packer = self._new_packer()
        elif columns.flat:
            source = self._source = Rows(flatten(source.objects(), self._outer))
        while not slots.terminated:
            if not slots.open():
                yield
                continue
            packer = slots.packer
            try:
                stopped = source.pack(packer, _TICK_S)
                if stopped == FULL:
                    slots.publish()
                elif stopped == MISFIT:
                    slots.packer = self._widened(packer)
            except (RowTooLarge, SchemaMismatch):
                if packer.has_pending:
                    packer.take_pending()  # who goes on after this error leaves that row out
                raise
            slots.serve()
            if stopped == END:
                self._source = None
                return
            if self._results.ready:
                yield  # an exchange hands its results on at once: they must not pile up here

    @property
    def _outer(self) -> frozenset[str] | None:
        """The structs that have to be taken apart; None: all."""
        form = self._columns.form
        return outer_names(form.spec) if form.only else None

    def _new_packer(self) -> RowPacker:
        columns = self._columns
        assert columns.agreed is not None
        assert columns.inferred is not None
        # The columns are the feed's; how a row holds them (tuple, Row, dict) is this writer's own matter.
        mine = Schema(columns.inferred.structure, columns.agreed.columns)
        return RowPacker(mine, exact=columns.form.exact, cast=bool(columns.form.spec))

    def _widened(self, packer: RowPacker) -> RowPacker:
        """A packer whose columns take the row that did not fit; it is the first that it packs."""
        columns, exact = self._columns, self._columns.form.exact
        assert columns.inferred is not None
        row, column = packer.pending, packer.misfit
        before = columns.agreed
        try:
            wider = join(columns.inferred, infer(row, exact=exact), exact=exact)
        except SchemaMismatch as error:
            raise self._slots.located(error, row) from None
        self._slots.publish(whole=True)  # nothing of the older schema may stay behind
        self._agree(wider, row)
        if columns.agreed == before:
            assert before is not None
            name = before.columns[column].name if column >= 0 else "?"
            wanted = expected(before.columns[column]) if column >= 0 else before.structure
            refused = SchemaMismatch(f"column {name!r}: expected {wanted}, found a value that does not fit")
            raise self._slots.located(refused, row)
        self._slots.unbind()
        packer = self._new_packer()
        packer.set_pending(row)
        return packer

    def _agree(self, wanted: Schema, row: object) -> None:
        """Propose columns; ``row`` needs them."""
        try:
            self._columns.propose(wanted)
        except SchemaMismatch as error:
            raise self._slots.located(error, row) from None
