"""Results as whole arrays through real shared memory, batches that are cut by knowledge, and quotas of one slot."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.support.helpers import broker_here, child, ended, in_thread, wait_for
from tfos_fast.channel import Channel
from tfos_fast.channel.arrow.unpack import slot_to_arrow
from tfos_fast.channel.codec.result_arrays import Block, to_results
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.messages import INPUT, OUTPUT
from tfos_fast.channel.reader import columns as columnreader
from tfos_fast.channel.reader import rows as rowreader
from tfos_fast.errors import SchemaMismatch


def tensor(array: np.ndarray) -> Any:
    return SimpleNamespace(numpy=lambda: array, shape=array.shape)


MATRIX = np.arange(20, dtype=np.float32).reshape(10, 2)
FORMS = {
    "scalars": (np.arange(10, dtype=np.int16), list(range(10))),
    "strided": (np.arange(20)[::2], list(range(0, 20, 2))),
    "booleans": (np.arange(10) % 2 == 0, [i % 2 == 0 for i in range(10)]),
    "a tensor": (tensor(np.arange(10) / 4), [i / 4 for i in range(10)]),
    "a dict": ({"y": np.arange(10), "z": tensor(np.arange(10) * 2)}, [{"y": i, "z": i * 2} for i in range(10)]),
    "a tuple": ((np.arange(10), np.arange(10) * 1j), [(i, i * 1j) for i in range(10)]),
    "words": ({"w": np.array(list("abcdefghij")), "n": list(range(10))}, [{"w": w, "n": i} for i, w in enumerate("abcdefghij")]),
    "objects": (np.array([None, "a"] * 5, object), [None, "a"] * 5),
    "big endian": (np.arange(10, dtype=">i4"), list(range(10))),
    "a list": ([None, 1, "x", *range(7)], [None, 1, "x", *range(7)]),
    "a tuple of rows": (tuple(range(10)), list(range(10))),
    "dates": (np.arange(10).astype("datetime64[D]"), np.arange(10).astype("datetime64[D]").tolist()),
}


def serve(channel: Channel, answer: Any, n: int = 10, mode: str = "rows") -> None:
    with channel.reader(train_mode=False) as reader:
        while not reader.ended:
            if mode == "rows":
                rows = reader.next_rows(n)
                if rows:
                    reader.write_results(to_results(answer(rows)))
            else:
                batch = reader.next_batch(n)
                if batch is not None:
                    reader.write_results(to_results(answer(batch.columns)))


@pytest.mark.parametrize("form", FORMS)
def test_what_each_form_of_results_comes_back_as(form: str):
    given, expected = FORMS[form]
    with Channel.create(memory="64k", slot_bytes="4k", form="rows") as channel:
        server, served = in_thread(lambda: serve(channel, lambda rows: given))
        with channel.writer() as writer:
            results = [result for some in writer.exchange(range(30)) for result in some]
        ended(server)
    assert served == [None]
    assert results == expected * 3
    assert list(map(type, results)) == list(map(type, expected)) * 3


def test_arrays_come_back_as_arrays():
    with Channel.create(memory="64k", slot_bytes="4k", form="rows") as channel:
        server, _ = in_thread(lambda: serve(channel, lambda rows: (MATRIX.T[0], MATRIX)))
        with channel.writer() as writer:
            results = [result for some in writer.exchange(range(10)) for result in some]
        ended(server)
    assert [x for x, _ in results] == MATRIX[:, 0].tolist()
    for (_, row), expected in zip(results, MATRIX, strict=True):
        assert row.dtype == np.float32
        assert row.tolist() == expected.tolist()


def test_forms_that_are_refused():
    with pytest.raises(ValueError, match="different numbers of rows"):
        to_results({"a": np.arange(3), "b": np.arange(4)})
    with pytest.raises(ValueError, match="without dimensions"):
        to_results(np.array(1.0))
    with pytest.raises(ValueError, match="column 'a' is 1"):
        to_results({"a": 1})
    block = to_results(np.arange(5))
    assert isinstance(block, Block)
    assert len(block[1:3]) == 2


def test_a_program_may_reuse_its_array_and_mix_forms():
    out = np.empty(10, np.int64)

    def answer(rows: list[int]) -> Any:
        if rows[0] % 40 == 0:
            return [row * 2 for row in rows]  # rows between arrays keep their place
        out[: len(rows)] = rows
        np.multiply(out, 2, out=out)
        return out[: len(rows)]

    with Channel.create(memory="64k", slot_bytes="4k", form="rows") as channel:
        server, _ = in_thread(lambda: serve(channel, answer))
        with channel.writer() as writer:
            assert [x for some in writer.exchange(range(20_000)) for x in some] == list(range(0, 40_000, 2))
        ended(server)


def test_pickled_rows_are_exchanged():
    batches = [pickle.dumps([(float(i), i) for i in range(start, start + 100)]) for start in range(0, 2000, 100)]
    batches.insert(3, pickle.dumps([]))
    with Channel.create(memory="64k", slot_bytes="4k", form="columns") as channel:
        server, _ = in_thread(lambda: serve(channel, lambda columns: columns["c0"] + columns["c1"], 64, "columns"))
        with channel.writer() as writer:
            results = [x for some in writer.exchange(batches, loads=pickle.loads) for x in some]
        ended(server)
    assert results == [2.0 * i for i in range(2000)]


# ---- when a short batch goes out ----


@pytest.mark.parametrize("mode", ["rows", "columns"])
def test_a_batch_is_filled_across_partition_ends_and_cut_when_all_have_ended(mode: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rowreader if mode == "rows" else columnreader, "LINGER_S", 10_000.0)  # only knowledge ends the wait
    sizes: list[int] = []
    first_ended = threading.Event()

    def slow() -> Iterator[int]:
        assert first_ended.wait(30)
        yield from range(100, 115)

    def exchange(writer: Any, rows: Any) -> list[int]:
        return [x for some in writer.exchange(rows) for x in some]

    with Channel.create(memory="64k", slot_bytes="4k", form=mode, writers=2) as channel:  # type: ignore[arg-type]
        writers = [channel.writer() for _ in range(2)]
        reader = channel.reader(train_mode=False)
        reader._declare(m.Form(mode, 20))  # type: ignore[arg-type]

        def seen(batch: Any) -> Any:
            values = np.asarray(batch if mode == "rows" else batch["c0"])
            sizes.append(len(values))
            return values * 2

        second, others = in_thread(lambda: exchange(writers[1], slow()))
        wait_for(lambda: writers[1]._partition.stream is not None)  # it is open, and has nothing yet
        first, mine = in_thread(lambda: exchange(writers[0], iter(range(10))))
        wait_for(lambda: channel.status()["rows_published"] == 10 and writers[0]._partition.stream is None)  # it waits for results
        first_ended.set()
        with reader:
            while sum(sizes) < 25:
                batch = reader.next_rows(20) if mode == "rows" else reader.next_batch(20).columns  # type: ignore[union-attr]
                reader.write_results(to_results(seen(batch)))
            reader._results.flush()
            for thread in (first, second):
                ended(thread)
            for writer in writers:
                writer.close()
    assert sizes == [20, 5]
    assert mine == [list(range(0, 20, 2))]
    assert others == [list(range(200, 230, 2))]


# ---- quotas ----


def feed_and_check(pipe: Any, address: str, start: int, arrow: bool) -> None:
    values = np.arange(start, start + 300, dtype=np.float64)
    with Channel.attach(address).writer(stall_timeout=60) as writer:
        rows: Any = [pa.RecordBatch.from_pydict({"x": values})] if arrow else values.tolist()
        at = start
        for some in writer.exchange(rows, arrow=arrow):
            for result in some:
                assert result.shape == (400,)
                assert (result == at).all()
                at += 1
    pipe.send(at - start)


@pytest.mark.parametrize("arrow", [False, True])
def test_large_results_with_one_slot_for_each_way(arrow: bool):
    with broker_here() as broker:
        broker.feed.table.quota = {INPUT: 1, OUTPUT: 1}
        with Channel.attach(broker.address) as channel, channel.reader(train_mode=False, stall_timeout=60) as reader:
            feeders = [child(feed_and_check, broker.address, 1000 * i, arrow) for i in range(2)]
            with feeders[0] as one, feeders[1] as two:
                done = 0
                held: Any = None
                while done < 600:
                    held = reader.next_batch(64)  # the batch before it is still held while this one is asked for
                    values = next(iter(held.columns.values()))
                    reader.write_results(to_results(np.repeat(values[:, None], 400, axis=1)))  # 3200 bytes for 8
                    done += held.rows
                reader._results.flush()
                assert one.hear() == two.hear() == 300
                one.join()
                two.join()
            broker.do(broker.end_feed)


# ---- Arrow ----

SCHEMA = pa.schema(
    [("a", pa.float64()), ("b", pa.list_(pa.list_(pa.float32()))), ("c", pa.bool_()), ("d", pa.list_(pa.int64(), 2))]
)


def as_batches(given: Any, schema: pa.Schema, count: int = 10) -> pa.Table:
    with Channel.create(memory="64k", slot_bytes="4k", form="rows") as channel:
        server, served = in_thread(lambda: serve(channel, lambda rows: given))
        with channel.writer() as writer:
            decode = lambda layout, slot, n: slot_to_arrow(layout, slot, n, schema)  # noqa: E731
            batches = list(writer.exchange(range(count), decode=decode))
        ended(server)
        assert served == [None]
    return pa.Table.from_batches(batches, schema)


def test_results_as_arrow_columns():
    given = {
        "d": np.arange(20, dtype=np.uint8).reshape(10, 2),
        "b": np.arange(60, dtype=np.float16).reshape(10, 2, 3),
        "a": np.arange(10),
        "c": np.arange(10) % 3 == 0,
        "unused": np.zeros(10),
    }
    table = as_batches(given, SCHEMA)
    table.validate(full=True)
    for name in SCHEMA.names:
        assert table[name].to_pylist() == given[name].tolist()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([{"a": 1.5, "b": "x"}, {"b": None, "a": 2}] * 5, [{"a": 1.5, "b": "x"}, {"a": 2.0, "b": None}] * 5),
        ([(1, "x"), (2.5, b"y")] * 5, [{"a": 1.0, "b": "x"}, {"a": 2.5, "b": "y"}] * 5),
        ([{"a": 1}] * 10, [{"a": 1.0, "b": None}] * 10),
        ((np.arange(10), np.zeros((10, 0))), None),
    ],
)
def test_rows_as_arrow_columns(given: Any, expected: Any):
    schema = pa.schema([("a", pa.float64()), ("b", pa.string() if expected else pa.list_(pa.float32()))])
    expected = expected or [{"a": float(i), "b": []} for i in range(10)]
    assert as_batches(given, schema).to_pylist() == expected


@pytest.mark.parametrize("given", [{"y": np.zeros(10), "a": np.zeros(10)}, [{"y": 1.5, "a": 0}] * 9 + [{"y": None, "a": 0}]])
def test_a_name_that_is_spelt_in_two_ways_is_told(given: Any):
    with pytest.raises(SchemaMismatch, match="the results have 'y', and the schema has 'nope' instead"):
        as_batches(given, pa.schema([("nope", pa.float64()), ("a", pa.int64())]))


def test_results_that_do_not_become_the_declared_type():
    with Channel.create(memory="64k", slot_bytes="4k", form="rows", writers=4) as channel:
        server, _ = in_thread(lambda: serve(channel, lambda rows: np.full((len(rows), 2), 1.5)))
        for schema, found in (
            (pa.schema([("a", pa.float64())]), r"arrays of shape \[2\], the schema says double"),
            (pa.schema([("a", pa.list_(pa.int32()))]), "declared as list"),
            (pa.schema([("a", pa.float64()), ("b", pa.float64())]), "a result has 1 values, and the schema has 2"),
        ):
            decode = lambda layout, slot, n, schema=schema: slot_to_arrow(layout, slot, n, schema)  # noqa: E731
            writer = channel.writer()
            with pytest.raises(SchemaMismatch, match=found):
                list(writer.exchange(range(10), decode=decode))
            writer.close()
        with channel.writer():
            pass
        channel.end_feed()
        ended(server)
