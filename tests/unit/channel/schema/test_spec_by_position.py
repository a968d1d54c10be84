"""A spec that is a tuple goes by position where rows have names: Rows, dicts, pickled Rows, Arrow batches, files."""

from __future__ import annotations

import pickle
import tempfile
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.support.helpers import broker_here, in_thread
from tfos_fast import MASK, parquet
from tfos_fast.channel import Channel
from tfos_fast.errors import SchemaMismatch
from tfos_fast.tensors import DataFeed

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
Point = namedtuple("Point", ["x", "y"])
N = 40


def rows(make: Any) -> list[Any]:
    return [make(i) for i in range(N)]


def as_rows(i: int) -> Any:
    from pyspark.sql import Row

    return Row(x=i / 2, y=i)


def put(kind: str, writer: Any) -> None:
    if kind == "arrow":
        writer.write_batch(pa.record_batch([pa.array([i / 2 for i in range(N)]), pa.array(range(N))], names=["x", "y"]))
    elif kind == "files":
        with tempfile.TemporaryDirectory() as folder:
            for start, end in ((0, 15), (15, N)):
                numbers = range(start, end)
                table = pa.table({"z": pa.nulls(len(numbers)), "y": numbers, "x": [i / 2 for i in numbers]})
                pq.write_table(table, f"{folder}/{start}.parquet", row_group_size=10)
            splits, reader = parquet(folder, columns=["x", "y"], splits=1).plan(1)
            for batch in reader.batches(splits[0], 2**16):
                writer.write_batch(batch)
    elif kind == "pickled":
        writer.write_pickled([pickle.dumps(rows(as_rows), 5)])
    else:
        writer.write_rows(rows(MAKES[kind]))


MAKES = {
    "rows": as_rows,
    "dicts": lambda i: {"x": i / 2, "y": i},
    "named": lambda i: Point(i / 2, i),
    "tuples": lambda i: (i / 2, i),
}
KINDS = ["rows", "dicts", "named", "pickled", "arrow", "files", "tuples"]
SPEC = ("float32", "int32")
WHOLE = (("float32", ()), ("int32", ()))


@contextmanager
def fed(kind: str, write: Any = put) -> Iterator[DataFeed]:
    """A feed whose writer's error is raised at the end."""
    with broker_here("1m", "64k", end_after=1) as broker, Channel.attach(broker.address) as channel:

        def run() -> None:
            with channel.writer() as writer:
                write(kind, writer)

        thread, out = in_thread(run)
        try:
            with channel.reader() as reader:
                yield DataFeed(reader)
        finally:
            thread.join(15)
            if isinstance(out[0], Exception):
                raise out[0]


def check(batches: list[tuple[Any, Any]]) -> None:
    x, y = (np.concatenate([np.asarray(part) for part in parts]) for parts in zip(*batches, strict=True))
    assert (x.dtype, y.dtype) == (np.float32, np.int32)
    assert (x.tolist(), y.tolist()) == ([i / 2 for i in range(N)], list(range(N)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", [SPEC, WHOLE, list(SPEC)], ids=["types", "whole", "list"])
def test_batches_keep_the_columns_names(kind: str, spec: Any) -> None:
    with fed(kind) as feed:
        batches = list(feed.batches(16, spec=spec))
    assert {tuple(batch) for batch in batches} == {("c0", "c1") if kind == "tuples" else ("x", "y")}
    check([tuple(batch.values()) for batch in batches])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", [SPEC, WHOLE], ids=["types", "whole"])
def test_tensors_and_datasets_are_tuples(kind: str, spec: Any) -> None:
    pytest.importorskip("tensorflow")
    with fed(kind) as feed:
        check(list(feed.tensors(16, spec=spec)))
    for how in ({}, {"prefetch": 0}):
        with fed(kind) as feed:
            check(list(feed.dataset(16, spec=spec, **how)))
    with fed(kind) as feed:
        check(list(feed.dataset(16, spec=spec).map(lambda x, y: (x, y))))
    with fed(kind) as feed:
        batches = [tuple(map(np.asarray, batch)) for batch in feed.dataset(16, spec=spec, shuffle=100, seed=1)]
        order = np.argsort(np.concatenate([y for _, y in batches]))
        check([tuple(np.concatenate(part)[order] for part in zip(*batches, strict=True))])


@pytest.mark.parametrize("kind", KINDS)
def test_nested_tuples(kind: str) -> None:
    pytest.importorskip("tensorflow")
    for spec in ((("float32",), "int32"), ((("float32", ()),), ("int32", ()))):
        with fed(kind) as feed:
            check([(x, y) for (x,), y in feed.tensors(16, spec=spec)])
        with fed(kind) as feed:
            check([(x, y) for (x,), y in feed.dataset(16, spec=spec)])


def test_masks_follow_their_columns() -> None:
    def write(_: str, writer: Any) -> None:
        writer.write_batch(pa.record_batch([pa.array([1.0, None]), pa.array([3, 4])], names=["x", "y"]))

    with fed("", write) as feed:
        (batch,) = feed.batches(16, spec=SPEC, nulls={"x": MASK})
        assert {name: values.tolist() for name, values in batch.items()} == {"x": [1, 0], "x_mask": [True, False], "y": [3, 4]}


def test_structs_count_as_their_fields() -> None:
    def write(kind: str, writer: Any) -> None:
        if kind == "arrow":
            writer.write_batch(pa.record_batch([pa.array([{"a": 1, "b": 2}]), pa.array([3])], names=["s", "y"]))
        else:
            writer.write_rows([{"s": {"a": 1, "b": 2}, "y": 3}])

    for kind in ("arrow", "dicts"):
        for spec in (("float32", "int8", "int32"), ((("float32", ()), ("int8", ())), ("int32", ()))):
            with fed(kind, write) as feed:
                (batch,) = feed.batches(16, spec=spec)
            assert {name: (values.dtype.name, values.tolist()) for name, values in batch.items()} == {
                "s.a": ("float32", [1]), "s.b": ("int8", [2]), "y": ("int32", [3])
            }  # fmt: skip


@pytest.mark.parametrize("kind", ["rows", "pickled", "arrow"])
@pytest.mark.parametrize("spec", [("float32",), ("float32", "int32", "int32")])
def test_another_number_of_columns_is_an_error(kind: str, spec: Any) -> None:
    text = rf"the spec is a tuple of {len(spec)}, and the rows have 2 columns with names \(x, y\)"
    with pytest.raises(SchemaMismatch, match=text), fed(kind) as feed:
        assert next(feed.batches(16, spec=spec), None) is None


def test_columns_that_are_called_so_go_by_name() -> None:
    def write(_: str, writer: Any) -> None:
        writer.write_batch(pa.record_batch([pa.array([1]), pa.array([2.5])], names=["c1", "c0"]))

    with fed("", write) as feed:
        (batch,) = feed.batches(16, spec=SPEC)
    assert {name: values.dtype.name for name, values in batch.items()} == {"c1": "int32", "c0": "float32"}


def test_a_dict_of_other_names_stays_an_error() -> None:
    with pytest.raises(SchemaMismatch, match="the spec names 'c0', 'c1'"), fed("arrow") as feed:
        assert next(feed.batches(16, spec={"c0": "float32", "c1": "int32"}), None) is None
