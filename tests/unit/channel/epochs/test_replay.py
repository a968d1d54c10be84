"""Kept epochs: a real reader that keeps what real writers publish, and replays it, by order of a broker that the test owns."""

from __future__ import annotations

import gc
import os
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.helpers import broker_here, ended, in_thread
from tests.support.kept_epochs import Kept
from tfos_fast.channel.codec.decode import columns as decode_columns
from tfos_fast.channel.codec.layout import layout
from tfos_fast.channel.epochs.replay import Keeper, Piece
from tfos_fast.channel.epochs.store import Store
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.schema.columns import Column, Schema
from tfos_fast.errors import NotEnoughMemory, StoreFull

KINDS = ["memory", "disk"]


def same(a, b):
    assert [list(batch) for batch in a] == [list(batch) for batch in b]
    for one, other in zip(a, b, strict=True):
        for name in one:
            assert one[name].dtype == other[name].dtype
            assert one[name].tolist() == other[name].tolist()


ROWS = [
    [[(float(i), [i] * 3) for i in range(700)], [(float(i), [i] * 3) for i in range(1000, 1010)]],
    [[(f"s{i}" * (i % 5), i, i if i % 3 else b"y") for i in range(900)], [("é", -1, b"x")]],
    [[1, 2, 3], [0.5] * 300, list(range(200))],  # the schema widens in the first epoch
    [[(i, [float(k) for k in range(i % 7)], ["a"] * (i % 3)) for i in range(900)], [(-1, [], [])]],
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("partitions", ROWS, ids=["fixed", "heap", "widened", "ragged"])
def test_a_replay_is_the_epoch_again(kind, partitions):
    with broker_here() as broker:
        it = Kept(broker, kind, partitions)
        first = it.epoch(64)
        assert sum(len(next(iter(batch.values()))) for batch in first) == sum(map(len, partitions))
        for _ in range(2):
            done = it.replay()
            same(it.epoch(64), first)
            assert done.wait(10)
        status = broker.status()
        assert status["rows_taken"] == status["rows_published"] == 3 * sum(map(len, partitions))
        it.close()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_replayed_with_their_types(kind):
    rows = [(i, f"text {i}", [1.5, i], None) for i in range(500)]
    with broker_here() as broker:
        it = Kept(broker, kind, [rows[:300], rows[300:]])
        assert it.reader.next_rows(500) == rows
        for seed in (None, 3):
            done = it.replay(seed)
            again = it.reader.next_rows(500)
            assert again == rows if seed is None else sorted(again) == rows
            assert done.wait(10)
        broker.do(broker.end_feed)
        assert it.reader.next_rows(1) == []
        assert it.reader.ended
        it.close()


def test_replayed_batches_alias_the_store_and_changing_them_changes_no_later_epoch():
    rows = [(float(i), [float(i)] * 16) for i in range(640)]
    with broker_here() as broker:
        it = Kept(broker, "memory", [rows])
        first = it.epoch(16)
        held = []
        for _ in range(2):
            it.replay()
            before = dict(it.reader.summary)
            for expected in first:
                batch = it.reader.next_batch(16, epoch_ends=True)
                for name, array in batch.columns.items():
                    assert array.tolist() == expected[name].tolist()
                    if batch.rows == 16 and it.reader.summary["copied"] == before["copied"]:
                        assert array.flags.writeable
                        assert array.ctypes.data % 64 == 0
                        assert any("tfos_fast_keep" in line for line in maps(array.ctypes.data))
                    array[...] = -1
                held.append(batch)
            assert it.reader.summary["aliased"] > before["aliased"]
            assert it.reader.next_batch(16, epoch_ends=True) is None
        broker.do(lambda: broker.feed.keep(""))
        broker.do(broker.end_feed)
        assert it.reader.next_batch(16) is None
        it.close()
        assert all((array == -1).all() for batch in held for array in batch.columns.values())  # they outlive the store
        del held, batch, array
        gc.collect()
        assert not kept_here()


def maps(address):
    """The lines of this process's map that hold the address."""
    with open("/proc/self/maps") as lines:
        return [line for line in lines if int(line.split("-")[0], 16) <= address < int(line.split("-")[1].split()[0], 16)]


def kept_here():
    with open("/proc/self/maps") as lines:
        mapped = [line for line in lines if "tfos_fast_keep" in line]
    opened = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        opened += [target] if "tfos_fast_keep" in target else []
    return mapped + opened


def test_a_seed_gives_an_order_and_every_row_once():
    rows = list(range(5000))
    with broker_here() as broker:
        it = Kept(broker, "memory", [rows[:2000], rows[2000:]])
        first = [int(v) for batch in it.epoch(64) for v in batch["c0"]]
        orders = []
        for seed in (1, 2, 1):
            done = it.replay(seed)
            orders.append([int(v) for batch in it.epoch(64) for v in batch["c0"]])
            assert done.wait(10)
        assert sorted(first) == rows
        assert all(sorted(order) == rows for order in orders)
        assert orders[0] == orders[2] != orders[1]
        assert orders[0] != first
        it.close()


@pytest.mark.parametrize(("kind", "error"), [("memory", NotEnoughMemory), ("disk", StoreFull)])
def test_what_does_not_fit_is_one_clear_error(kind, error):
    with broker_here() as broker:
        it = Kept(broker, kind, [range(100_000)], limit=16 << 10)
        with pytest.raises(error, match=rf"keep='{kind}' has kept \d+ rows in \d+ bytes.*the limit is 16384.*keep_limit") as caught:
            it.epoch(64)
        assert ("use keep='disk'" in str(caught.value)) == (kind == "memory")
        with pytest.raises(error):
            it.reader.next_batch(64)
        assert not kept_here()
        it.reader.close()  # the writer ends with it
        it.close()


def test_terminate_in_mid_replay():
    with broker_here() as broker:
        it = Kept(broker, "memory", [range(5000)])
        it.epoch(64)
        done = it.replay()
        it.reader.next_batch(64, epoch_ends=True)
        it.reader.terminate()
        assert it.reader.ended
        assert not kept_here()
        it.close()
        assert not done.is_set()
        assert broker.status()["rows_taken"] < 10_000 == broker.status()["rows_published"]


def test_feeds_after_a_kept_one():
    """Nothing is kept of a feed that comes after, and a new one that is kept has only its own rows."""
    with broker_here() as broker:
        it = Kept(broker, "memory", [[1, 2]])
        it.epoch(1)
        broker.do(lambda: broker.feed.keep(""))
        thread, _ = in_thread(lambda: it.write([[3]]))
        assert [batch["c0"].tolist() for batch in it.epoch(1)] == [[3]]
        ended(thread)
        broker.do(lambda: broker.feed.keep("disk"))
        thread, _ = in_thread(lambda: it.write([[4, 5]]))
        it.epoch(1)
        ended(thread)
        done = it.replay()
        assert [batch["c0"].tolist() for batch in it.epoch(1)] == [[4], [5]]
        assert done.wait(10)
        it.close()


def test_a_node_without_rows_replays_nothing():
    with broker_here() as broker:
        it = Kept(broker, "memory", [])
        assert it.epoch(64) == []
        assert it.replay().wait(10)
        assert it.epoch(64) == []
        it.close()


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), max_size=12),
    text=st.booleans(),
    seed=st.none() | st.integers(0, 2**62),
    batch=st.integers(0, 16),
    rubbish=st.integers(0, 2**32),
)
def test_a_store_gives_back_what_the_rows_use(sizes: list[int], text: bool, seed: int | None, batch: int, rubbish: int):
    """Any slots, with rubbish where no row is: blocks hold the same values, aligned, in any order each once."""
    draw = random.Random(rubbish)
    texts = [Column("b", "string", "")] if text else []
    schema = Schema("tuple", (Column("a", "fixed", "int16", (3,)), *texts, Column("c", "fixed", "float64")))
    keeper = Keeper()
    keeper.begin(m.Keep("memory", 1 << 24))
    expected = []
    for lane, rows in enumerate(sizes):
        where = layout(schema, 64, 4096)
        slot = np.frombuffer(draw.randbytes(4096), np.uint8).copy()
        heap = where.heap
        for name, offset in zip(schema.names, where.offsets, strict=True):
            if name == "b":
                pairs = slot[offset : offset + 8 * rows].view(np.uint32).reshape(rows, 2)
                for row in range(rows):
                    value = "x" * draw.randrange(5)
                    pairs[row] = (heap if value else draw.randrange(100), len(value))
                    slot[heap : heap + len(value)] = 120
                    heap += len(value)
        slot[where.offsets[-1] : where.offsets[-1] + 8 * rows].view(np.float64)[:] = range(lane * 100, lane * 100 + rows)
        values = decode_columns(where, slot, 0, rows)
        expected += list(zip(*(values[name].tolist() for name in schema.names), strict=True))
        keeper.add(where, slot, rows, lane)
        keeper.end_lane(lane)
    for _ in range(2):
        keeper.replay(seed, batch)
        found = []
        while (item := keeper.next()) is not None:
            if isinstance(item, Piece):
                values = decode_columns(item.layout, item.buffer, item.start, item.start + item.rows)
                if item.start == 0:
                    assert all(a.ctypes.data % 64 == 0 for name, a in values.items() if name != "b")
                found += list(zip(*(values[name].tolist() for name in schema.names), strict=True))
        assert found == expected if seed is None else sorted(found, key=lambda row: row[-1]) == expected
    keeper.clear()


def test_a_store_grows_by_chunks(monkeypatch):
    monkeypatch.setattr("tfos_fast.channel.epochs.store.CHUNK_BYTES", 8192)
    store = Store("disk", 1 << 20)
    schema = Schema("bare", (Column("c0", "fixed", "uint8", (3000,)),))
    where = layout(schema, 4, 16384)
    slots = [np.full(16384, i, np.uint8) for i in range(5)]
    for i, slot in enumerate(slots):
        store.add(where, slot, 1 + i % 4, i)
    view = store.view()
    for i, block in enumerate(store.entries):
        assert (decode_columns(block.layout, view.buffer(block), 0, block.rows)["c0"] == i).all()
    assert store.used <= 5 * 12288
    store.close()
