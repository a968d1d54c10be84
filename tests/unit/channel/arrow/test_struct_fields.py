"""Structs of Arrow batches under a spec and policies, and batches whose columns differ: as Rows have it."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import pytest

from tests.support.helpers import broker_here, ended, in_thread
from tfos_fast import MASK
from tfos_fast.channel import Channel
from tfos_fast.channel.arrow.flatten import structs_of
from tfos_fast.errors import SchemaMismatch, TfosError
from tfos_fast.tf.declarations import null_policies, row_spec

pa = pytest.importorskip("pyarrow")
Row = pytest.importorskip("pyspark.sql").Row

DAY = datetime.date(1970, 1, 2)
POINTS = [Row(s=Row(a=1, b="x"), y=1), Row(s=None, y=2), Row(s=Row(a=None, b=None), y=3)]
BATCH = pa.RecordBatch.from_pylist([row.asDict(recursive=True) for row in POINTS])
MAPS = pa.record_batch([pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32()))], names=["m"])


def columns(batches: list[Any], *, rows: Any = (), spec: Any = None, nulls: Any = None, **form: Any) -> dict[str, list[Any]]:
    """The columns of a writer's batches, and then of another one's rows."""
    with broker_here("1m", "64k", end_after=1) as broker, Channel.attach(broker.address) as channel:

        def work() -> None:
            with channel.writer() as writer, channel.writer() as other:
                for batch in batches:
                    writer.write_batch(batch)
                writer.end_partition()
                other.write_rows(rows)
                other.end_partition()

        thread, out = in_thread(work)
        got: dict[str, list[Any]] = {}
        failed: TfosError | None = None
        with channel.reader() as reader:
            try:
                reader.open_columns(64, row_spec(spec) if spec else None, nulls=null_policies(nulls), wait=False, **form)
                for batch in reader.batches(64):
                    for name, values in batch.items():
                        got.setdefault(name, []).extend(values.tolist())
            except TfosError as error:
                failed = error
        ended(thread)
        for error in (*out, failed):  # the writer's own says more
            if error is not None:
                raise error
        return got


def rows_alone(rows: list[Any], **how: Any) -> dict[str, list[Any]]:
    return columns([], rows=rows, **how)


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ({"nulls": {"s": MASK}}, {"s.a": [1, 0, 0], "s.a_mask": [True, False, False], "s.b": ["x", "", ""],
                                  "s.b_mask": [True, False, False], "y": [1, 2, 3]}),
        ({"nulls": {"s": MASK, "s.a": 7}}, {"s.a": [1, 7, 7], "s.b": ["x", "", ""], "s.b_mask": [True, False, False],
                                            "y": [1, 2, 3]}),
        ({"spec": {"s": "object"}}, {"s": [Row(a=1, b="x"), None, Row(a=None, b=None)], "y": [1, 2, 3]}),
        ({"spec": ("object", "int8"), "positional": True},
         {"s": [Row(a=1, b="x"), None, Row(a=None, b=None)], "y": [1, 2, 3]}),
        ({"spec": {"s.z": "int32", "s.a": "int32"}, "nulls": {"s.z": 5, "s.a": 0}, "only": True},
         {"s.a": [1, 0, 0], "s.z": [5, 5, 5]}),
    ],
    ids=["policy", "nearer policy", "whole", "whole by position", "field that no row has"],
)  # fmt: skip
def test_structs_are_those_of_rows(how: dict[str, Any], wanted: dict[str, list[Any]]) -> None:
    found = columns([BATCH, BATCH], **how)
    assert {name: values[:3] for name, values in found.items()} == wanted
    assert {name: values[3:] for name, values in found.items()} == wanted
    if not how.get("positional"):
        assert rows_alone(POINTS, **how) == wanted
        assert columns([BATCH], rows=POINTS, **how) == found


def test_a_column_that_is_declared_object_keeps_its_values() -> None:
    batch = pa.record_batch(
        [pa.array([DAY, None]), pa.array([decimal.Decimal("1.50"), None]), pa.array([{"t": {"q": 1}, "d": DAY}, None])],
        names=["d", "n", "s"],
    )
    found = columns([batch], spec={"d": "object", "n": "object", "s.t": "object"})
    assert found == {"d": [DAY, None], "n": [decimal.Decimal("1.50"), None], "s.t": [Row(q=1), None], "s.d": [1, None]}


def test_maps() -> None:
    found = columns([MAPS], nulls={"m": MASK})
    assert (found["m.key_mask"], found["m.value_mask"]) == ([True, False], [True, False])
    assert columns([MAPS], spec={"m": "object"}) == {"m": [{"k": 1}, None]}


def test_a_field_that_only_some_batches_have_is_null_in_the_others() -> None:
    batches = [pa.RecordBatch.from_pylist([{"s": struct}]) for struct in ({"a": 1}, {"c": 2, "a": 3}, {"b": "x"})]
    assert columns(batches) == {"s.a": [1, 3, None], "s.c": [None, 2, None], "s.b": [None, None, "x"]}
    assert columns(batches, rows=[Row(s=None), Row(s=Row(c=9))]) == {
        "s.a": [1, 3, None, None, None], "s.c": [None, 2, None, None, 9], "s.b": [None, None, "x", None, None]
    }  # fmt: skip


def test_batches_go_together_by_names_in_the_order_of_the_first() -> None:
    one = pa.record_batch([pa.array([1]), pa.array(["x"])], names=["d", "e"])
    other = pa.record_batch([pa.array(["y"]), pa.array([3.5])], names=["e", "d"])
    assert columns([one, other], rows=[Row(e="z", d=4)]) == {"d": [1.0, 3.5, 4.0], "e": ["x", "y", "z"]}
    assert columns([one, other], spec={"d": "float32"}, nulls={"e": MASK})["d"] == [1.0, 3.5]
    with pytest.raises(SchemaMismatch, match=r"rows differ in structure: a row of 2 \(d, e\) and a row of 1 \(d\)"):
        columns([one, one.select(["d"])])


def test_which_names_are_structs() -> None:
    inner = pa.struct([("t", pa.struct([("q", pa.int32())])), ("x.y", pa.map_(pa.string(), pa.int32())), ("e", pa.struct([]))])
    schema = pa.schema([("a.b", pa.int32()), ("s", inner), ("d", pa.dictionary(pa.int8(), inner)), ("l", pa.list_(inner))])
    assert structs_of(schema) == ("d", "d.t", "d.x.y", "s", "s.t", "s.x.y")
    assert structs_of(schema, {"d", "s.t"}) == ("s", "s.x.y")
