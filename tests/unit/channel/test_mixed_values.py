"""Rows of mixed values, with nulls, of two writers in slots of any size, against a model in plain Python."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import pickle
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.helpers import broker_here, ended, in_thread
from tests.support.rows import same
from tfos_fast import MASK
from tfos_fast.channel import Channel
from tfos_fast.errors import SchemaMismatch, WriterDied
from tfos_fast.tf.declarations import null_policies, row_spec
from tfos_fast.values.ragged import Ragged

some = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))

UTC = dt.timezone.utc
MOMENTS = [dt.datetime(2020, 1, 1, tzinfo=UTC), dt.datetime(1, 1, 1, tzinfo=UTC), pd.Timestamp("2021-01-01", tz="UTC")]
NOTHING = [None, pd.NaT, np.datetime64("NaT")]
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "number": st.one_of(
        st.integers(-5, 5), st.floats(-9, 9, width=16), st.just(decimal.Decimal("1.5")), st.just(np.float32(0.5)), st.booleans()
    ),
    "text": st.sampled_from(["", "a", "é" * 9, "text" * 300]),
    "bytes": st.sampled_from([b"", b"\0\xff", bytearray(b"xy")]),
    "numbers": st.lists(st.integers(-3, 3), max_size=3) | st.lists(st.floats(-1, 1, width=16), min_size=2, max_size=2),
    "lists": st.lists(st.lists(st.integers(-3, 3), max_size=2), min_size=1, max_size=3).filter(lambda value: any(value)),
    "texts": st.lists(st.sampled_from(["", "a", "bb"]), min_size=1, max_size=3),
    "date": st.dates(dt.date(1969, 12, 30), dt.date(1970, 1, 3)),
    "timestamp": st.sampled_from(MOMENTS),
    "duration": st.sampled_from([dt.timedelta(1), dt.timedelta(microseconds=-1), np.timedelta64(-1, "ns")]),
    "dates": st.lists(st.dates(dt.date(1970, 1, 1), dt.date(1970, 1, 3)), min_size=1, max_size=3),
    "odd": st.sampled_from([{1: 2}, {"set"}, [None], 2**70]),
}
COUNTED = {"date", "timestamp", "duration", "dates"}
LISTS = {"numbers", "lists", "texts", "dates"}
FILLS: dict[Any, set[str]] = {
    0: {"number", "bool"},
    0.5: set(),  # no whole number takes it
    -1: {"number", "date"},
    "-": {"text", "bytes"},
    b"-": {"text", "bytes"},
}


class Cell:
    """A value, and which of KINDS it is of; ``""``: none."""

    def __init__(self, kind: str, value: Any) -> None:
        self.kind, self.value = kind, value

    def __repr__(self) -> str:
        return repr(self.value)


@st.composite
def tables(draw: st.DrawFn) -> list[list[Cell]]:
    """Columns of the same length: mostly of one kind, with other kinds and nulls now and then."""
    count = draw(st.integers(1, 25))
    columns: list[list[Cell]] = []
    for _ in range(draw(st.integers(1, 3))):
        kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=2))
        cells = []
        for _ in range(count):
            at = draw(st.integers(0, 9))
            kind = "" if at < 2 else kinds[-1] if at == 9 else kinds[0]
            cells.append(Cell(kind, draw(KINDS[kind]) if kind else draw(st.sampled_from(NOTHING))))
        columns.append(cells)
    return columns


def feed(rows: list[Any], sizes: list[int], *, pickled: bool, slot: int, slots: int, read: Any) -> Any:
    """Parts of the rows by two writers in turns, all of them in one partition of each; what ``read`` makes of the reader."""
    with broker_here(slot * slots, slot, end_after=2) as broker, Channel.attach(broker.address) as channel:

        def write() -> None:
            with contextlib.ExitStack() as stack:
                writers = [stack.enter_context(channel.writer()) for _ in range(2)]
                at = turn = 0
                while at < len(rows):
                    part = rows[at : at + sizes[turn % len(sizes)]]
                    writer = writers[turn % 2]
                    writer.write_pickled([pickle.dumps(part, 5)]) if pickled else writer.write_rows(part)
                    if turn % 3 == 0:
                        writer.end_partition()
                    at, turn = at + len(part), turn + 1
                for writer in writers:
                    writer.end_partition()

        thread, out = in_thread(write)
        got: Any = None
        with channel.reader() as reader, contextlib.suppress(WriterDied):
            got = read(reader)
        ended(thread)
        if out != [None]:
            raise out[0]
        return got


def columns_of(reader: Any, n: int, spec: Any, nulls: Any) -> dict[str, list[Any]]:
    got: dict[str, list[Any]] = {}
    reader.open_columns(n, row_spec(spec) if spec else None, nulls=null_policies(nulls), wait=False)
    for batch in reader.batches(n):
        for name, values in batch.items():
            got.setdefault(name, []).extend(values.tolist() if isinstance(values, Ragged) else map(plain, values))
    return got


def plain(value: Any) -> Any:
    """As Python has it: arrays as lists."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) and value.dtype.kind not in "Mm" else value


def number(value: Any) -> Any:
    """What a date, a moment or a duration counts."""
    if isinstance(value, list):
        return [number(item) for item in value]
    if isinstance(value, np.timedelta64):
        return -1  # -1 ns, rounded down
    if isinstance(value, dt.datetime):
        moment = value.to_pydatetime() if isinstance(value, pd.Timestamp) else value
        return (moment - dt.datetime(1970, 1, 1, tzinfo=UTC)) // dt.timedelta(microseconds=1)
    if isinstance(value, dt.date):
        return (value - dt.date(1970, 1, 1)).days
    return value // dt.timedelta(microseconds=1) if isinstance(value, dt.timedelta) else value


def text_of(value: Any) -> Any:
    """A text stands for None in columns of bytes as well, and the other way round."""
    return bytes(value).decode("latin-1") if isinstance(value, bytes | bytearray) else value


def leaves(value: Any) -> set[Any]:
    return set().union(*map(leaves, value)) if isinstance(value, list) else {value}


def kinds_of(cells: list[Cell]) -> set[str]:
    empties = [isinstance(cell.value, list) and not cell.value for cell in cells]
    # Numbers that are nothing but bools are a column of bools.
    found = [Cell("bool" if isinstance(cell.value, bool) else cell.kind, None) for cell in cells]
    kinds = {cell.kind for cell, empty in zip(found, empties, strict=True) if cell.kind and not empty}
    if any(empties) and not kinds & LISTS:
        kinds.add("numbers")  # a list without items says no more
    return kinds - {"bool"} if "number" in kinds else kinds


def check(cells: list[Cell], got: list[Any], mask: list[bool] | None, nulls: Any) -> None:
    """The values of a column that was not refused."""
    kinds, fill = kinds_of(cells), nulls if nulls is not MASK else None
    typed = len(kinds) == 1 and "odd" not in kinds and not (nulls is None and any(not cell.kind for cell in cells))
    assert len(got) == len(cells)
    for i, (cell, value) in enumerate(zip(cells, got, strict=True)):
        if cell.kind:
            counts = number(plain(cell.value))
            same_as_fed = value == plain(cell.value) or (isinstance(value, np.timedelta64) and value == cell.value)
            if cell.kind in COUNTED and len(kinds) > 1:
                assert same_as_fed, (cell, value)
                assert type(value) is not int, (cell, value)
            else:
                assert value == counts, (cell, value)
        elif fill is not None:
            assert text_of(value) == text_of(fill) or (isinstance(value, list) and leaves(value) <= {fill}), (cell, value)
        elif nulls is MASK and kinds and typed:
            assert leaves(value) <= {0} if isinstance(value, list) else not value
        elif nulls is MASK and not kinds:
            assert value == 0.0
        else:
            assert value is None or value is cell.value or value is pd.NaT or np.isnat(value), (cell, value)
        if mask is not None:
            assert mask[i] is bool(cell.kind)
    if nulls is MASK:
        assert (mask is not None) == (typed or not kinds)


def may_be_refused(cells: list[Cell], nulls: Any, own: bool) -> bool:
    kinds = kinds_of(cells)
    if kinds & COUNTED and len(kinds) > 1:
        return True
    if nulls is None or nulls is MASK:
        return False
    bools = any(isinstance(cell.value, bool) for cell in cells) and nulls == -1  # None may come when there are only these
    texts = {"text", "bytes"} <= kinds  # what stands for None among the one is another value among both
    return (bools or texts or not kinds <= FILLS[nulls]) and (own or any(not cell.kind for cell in cells))


@given(
    tables(),
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.sampled_from([None, MASK, *FILLS]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([4096, 8192, 65536]),
    st.integers(4, 16),
)
@some
def test_columns_are_what_the_model_says(
    table: list[list[Cell]], sizes: list[int], nulls: Any, own: bool, pickled: bool, slot: int, slots: int
) -> None:
    rows = [(i, *(column[i].value for column in table)) for i in range(len(table[0]))]
    policy = {f"c{i + 1}": nulls for i in range(len(table))} if own and nulls is not None else nulls
    refusable = any(may_be_refused(column, nulls, own) for column in table)
    with contextlib.suppress(*([SchemaMismatch] if refusable else [])):
        got = feed(rows, sizes, pickled=pickled, slot=slot, slots=slots, read=lambda reader: columns_of(reader, 1000, None, policy))
        check_columns(table, got, nulls)


def check_columns(table: list[list[Cell]], got: dict[str, list[Any]], nulls: Any) -> None:
    order = np.argsort(got["c0"]).tolist()
    assert [got["c0"][i] for i in order] == list(range(len(table[0])))
    for i, column in enumerate(table):
        values, mask = got[f"c{i + 1}"], got.get(f"c{i + 1}_mask")
        check(column, [values[j] for j in order], None if mask is None else [mask[j] for j in order], nulls)


@given(tables(), st.lists(st.integers(1, 9), min_size=1, max_size=5), st.booleans(), st.sampled_from([4096, 65536]))
@settings(some, max_examples=50)
def test_columns_declared_objects_are_as_they_were_fed(table: list[list[Cell]], sizes: list[int], pickled: bool, slot: int) -> None:
    rows = [(i, *(column[i].value for column in table)) for i in range(len(table[0]))]
    spec = {f"c{i + 1}": "object" for i in range(len(table))}

    def read(reader: Any) -> Any:
        reader.open_columns(1000, row_spec(spec), wait=False)
        return [row for batch in reader.batches(1000) for row in zip(*batch.values(), strict=True)]

    got = feed(rows, sizes, pickled=pickled, slot=slot, slots=12, read=read)
    for fed_row, row in zip(rows, sorted(got, key=lambda row: row[0]), strict=True):
        assert repr(tuple(row)[1:]) == repr(fed_row[1:])


@given(
    tables(), st.lists(st.integers(1, 9), min_size=1, max_size=5), st.booleans(), st.sampled_from([4096, 65536]), st.integers(1, 9)
)
@settings(some, max_examples=50)
def test_rows_are_what_was_fed(table: list[list[Cell]], sizes: list[int], pickled: bool, slot: int, n: int) -> None:
    rows = [(i, *(column[i].value for column in table)) for i in range(len(table[0]))]

    def read(reader: Any) -> Any:
        got = []
        while not reader.ended:
            got += reader.next_rows(n)
        return got

    got = feed(rows, sizes, pickled=pickled, slot=slot, slots=12, read=read)
    for fed_row, row in zip(rows, sorted(got, key=lambda row: row[0]), strict=True):
        assert list(map(type, row)) == list(map(type, fed_row))
        assert all(same(a, b) or repr(a) == repr(b) for a, b in zip(row, fed_row, strict=True))
