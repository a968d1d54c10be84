"""Whether a partition that is computed again is the same: the proof of it, and attempts that are compared by it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.helpers import in_thread, wait_for
from tfos_fast.channel import Channel
from tfos_fast.channel.codec.fingerprint import MIXED, Proof, Prover, mark
from tfos_fast.channel.codec.layout import layout
from tfos_fast.channel.schema.detect import infer
from tfos_fast.errors import NonDeterministicPartition
from tfos_fast.native.row_packer import END, RowPacker

SLOT = 1 << 16


def proof_of(rows, cuts, capacity):
    """Of rows that are packed into slots which are cut at these places."""
    schema = infer(rows[0], exact=False)
    it, at = Proof(), 0
    for stop in [*cuts, len(rows)]:
        packer = RowPacker(schema, exact=False)
        window = bytearray(SLOT)
        where = layout(schema, capacity, SLOT)
        packer.bind(window, where)
        assert packer.pack_from(iter(rows[at:stop]), 10.0) == END
        it = it.extended(Prover().total(where, window, at, stop - at), mark(schema.columns))
        packer.unbind()
        at = stop
    return it


def rows_of(numbers):
    return [(n, float(n) / 3, f"text {n}", bytes([n % 256]) * (n % 7), np.full(5, n, np.float32)) for n in numbers]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=150), st.data())
def test_the_proof_does_not_depend_on_the_slots(numbers, data):
    rows = rows_of(numbers)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows) - 1), max_size=4))) if len(rows) > 1 else []
    assert proof_of(rows, cuts, 150) == proof_of(rows, [], 200)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 3000), st.data())
def test_rows_in_another_order_or_of_other_values_differ(count, data):
    rows = [(n, n % 10) for n in range(count)]
    at = data.draw(st.integers(0, min(count, 32) - 1))  # each of the first rows is looked at
    other = list(rows)
    other[at] = (rows[at][0] + 1, rows[at][1])
    assert proof_of(other, [], 4000) != proof_of(rows, [], 4000)
    assert proof_of(rows[::-1], [], 4000) != proof_of(rows, [], 4000)
    later = data.draw(st.integers(0, count - 1))  # and of later ones enough to see that an order has changed there
    if count - later > 1500:
        moved = rows[:later] + rows[later:][::-1]
        assert proof_of(moved, [], 4000) != proof_of(rows, [], 4000)


def test_proofs_by_different_columns_tell_nothing():
    one, other = Proof(5, 1), Proof(6, 2)
    assert one.tells(Proof(7, 1))
    assert not one.tells(other)
    assert one.extended(6, 2).columns == MIXED
    assert not one.extended(6, 2).tells(Proof(11, MIXED))
    assert not Proof().tells(Proof())


@pytest.fixture
def channel():
    with Channel.create(memory="256k", slot_bytes="8k") as it:
        yield it


@pytest.mark.parametrize("form", ["rows", "columns"])
@pytest.mark.parametrize("what", ["same", "other", "shorter"])
def test_a_repeated_attempt_is_compared(channel, form, what):
    reader = channel.reader()
    read, _ = in_thread(lambda: reader.next_rows(10**6) if form == "rows" else list(reader.batches(64)))
    rows = [(i, f"row {i}") for i in range(3000)]
    first = channel.writer()
    first.open_partition("p", 1)
    first.write_rows(rows[:2000])
    first._slots.publish(whole=True)
    second = channel.writer()
    skip = second.open_partition("p", 2)
    assert 1000 < skip <= 2000
    again = {"same": rows, "other": rows[1:], "shorter": rows[:500]}[what]
    if what == "same":
        second.compare_rows(again[:skip])
    else:
        with pytest.raises(NonDeterministicPartition, match=r"has 500 rows now|begins with other rows"):
            second.compare_rows(again[:skip])
    second.write_rows(rows[skip:])  # who goes on nevertheless leaves out what was delivered
    second.end_partition()
    wait_for(lambda: channel.status()["rows_published"] == 3000)  # its last messages are on their way
    first.close()
    second.close()
    reader.terminate()
    read.join(10)
    reader.close()


def test_record_batches_are_compared(channel):
    reader = channel.reader()
    read, _ = in_thread(lambda: list(reader.batches(64)))
    batch = pa.RecordBatch.from_pydict({"x": np.arange(4000.0), "name": [f"n{i}" for i in range(4000)]})
    first = channel.writer()
    first.open_partition("p", 1)
    first.write_batch(batch.slice(0, 3000))
    first._slots.publish(whole=True)
    second = channel.writer()
    skip = second.open_partition("p", 2)
    assert skip > 1000
    second.compare_batches([batch.slice(0, 100), batch.slice(100, skip - 100)])
    second.write_batch(batch.slice(skip))
    third = channel.writer()
    skip = third.open_partition("p", 3)
    with pytest.raises(NonDeterministicPartition, match="begins with other rows"):
        third.compare_batches([batch.slice(4000 - skip, skip)] if skip < 4000 else [batch.slice(1, 3999), batch.slice(0, 1)])
    third.write_batch(batch.slice(skip))
    third.end_partition()
    for writer in (first, second, third):
        writer.close()
    reader.terminate()
    read.join(10)
    reader.close()
