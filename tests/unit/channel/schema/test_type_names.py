"""How users spell element types and what stands for None: each has one meaning, or an error that says the right spelling."""

from __future__ import annotations

import array
import datetime
import decimal
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.support import fed
from tests.support.helpers import broker_here, ended, in_thread
from tfos_fast import MASK
from tfos_fast.channel import Channel
from tfos_fast.channel.schema.columns import Octets
from tfos_fast.channel.schema.type_names import type_name
from tfos_fast.channel.schema.widen import Nulls
from tfos_fast.errors import FormError
from tfos_fast.tf.declarations import null_policies, row_spec

sql = pytest.importorskip("pyspark.sql.types")

MEANINGS = {
    # numpy and Python
    "float32": "float32", "f4": "float32", ">f4": "float32", "<i8": "int64", "half": "float16", "single": "float32",
    "double": "float64",
    "bool": "bool", "?": "bool", "complex64": "complex64", "bfloat16": "bfloat16", "U": "string", "S8": "bytes", "O": "object",
    bool: "bool", int: "int64", float: "float64", complex: "complex128", str: "string", bytes: "bytes", object: "object",
    np.float32: "float32", np.dtype("i2"): "int16", np.str_: "string", np.bytes_: "bytes", np.object_: "object", np.bool_: "bool",
    np.longlong: "int64", np.dtype("U7"): "string", np.dtype("O"): "object",
    # Spark
    "boolean": "bool", "tinyint": "int8", "byte": "int8", "smallint": "int16", "short": "int16", "long": "int64", "bigint": "int64",
    "real": "float32", "string": "string", "str": "string", "binary": "bytes", "bytes": "bytes", "object": "object",
    "date": "int32",
    "timestamp": "int64", "timestamp_ntz": "int64", "decimal(10,2)": "float64", "array<float>": "float32", "array<int>": "int32",
    "array<array<bigint>>": "int64", "array<string>": "string", "array<decimal(4,1)>": "float64", "varchar(10)": "string",
    "interval day to second": "int64", "BIGINT": "int64", " Double ": "float64", "vector": "float64", "Matrix": "float64",
    sql.FloatType(): "float32", sql.DoubleType(): "float64", sql.IntegerType(): "int32", sql.LongType(): "int64",
    sql.ShortType(): "int16", sql.ByteType(): "int8", sql.BooleanType(): "bool", sql.StringType(): "string",
    sql.BinaryType(): "bytes", sql.DateType(): "int32", sql.TimestampType(): "int64", sql.DecimalType(10, 2): "float64",
    sql.ArrayType(sql.FloatType()): "float32", sql.ArrayType(sql.ArrayType(sql.StringType())): "string",
    sql.FloatType: "float32", sql.IntegerType: "int32", sql.LongType: "int64", sql.StringType: "string",
    sql.DayTimeIntervalType(): "int64",
    # Arrow
    pa.float32(): "float32", pa.int64(): "int64", pa.string(): "string", pa.binary(): "bytes", pa.bool_(): "bool",
    pa.float16(): "float16",
}  # fmt: skip


@pytest.mark.parametrize(("spelling", "name"), MEANINGS.items(), ids=map(str, range(len(MEANINGS))))
def test_each_spelling_has_one_meaning(spelling: Any, name: str) -> None:
    assert type_name("x", spelling) == name
    assert row_spec({"x": spelling}) == {"x": (name, None)}
    assert row_spec({"x": (spelling, (2,))}) == {"x": (name, (2,))}


def test_vectors_of_spark_are_float64() -> None:
    pytest.importorskip("pyspark.ml.linalg")
    from pyspark.ml.linalg import VectorUDT

    assert type_name("x", VectorUDT()) == "float64"


def test_types_of_tensorflow() -> None:
    tf = pytest.importorskip("tensorflow")
    for spelling, name in [
        (tf.float32, "float32"), (tf.int64, "int64"), (tf.bool, "bool"), (tf.string, "string"), (tf.bfloat16, "bfloat16"),
        (tf.TensorSpec((), tf.uint8), "uint8"), (tf.TensorSpec((3,), tf.string), "string"),
        (tf.RaggedTensorSpec((None, None), tf.int32), "int32"),
    ]:  # fmt: skip
        assert row_spec({"x": spelling})["x"][0] == name
    for spelling in (tf.variant, tf.resource, tf.qint8):
        with pytest.raises(FormError, match=r"column 'x': the spec says .*, which is no type of a column"):
            row_spec({"x": spelling})
    with pytest.raises(FormError, match=r"column 'x': the spec says SparseTensorSpec.*no sparse tensors"):
        row_spec({"x": tf.SparseTensorSpec((None, 3), tf.float32)})


REFUSED = [
    ("float", "says 'float', by which numpy and Python mean 64 bits and Spark and others 32; say 'float64' or 'float32'"),
    ("int", "say 'int64' or 'int32'"),
    ("INT", "say 'int64' or 'int32'"),
    ("integer", "say 'int64' or 'int32'"),
    ("uint", "say 'uint64' or 'uint32'"),
    (None, "the spec says None, which names no type; leave the column out, or say which it is"),
    ((None, (28,)), "the spec says None"),
    ("flaot32", "says 'flaot32', which is no type of a column; did you mean 'float32'"),
    ("strng", "did you mean 'string'"),
    ("float33", "did you mean 'float32'"),
    ("torch.float32", "did you mean 'float32'"),
    ("zzz", "which is no type of a column; types are bfloat16, bool, .*, or those of numpy, TensorFlow or Spark$"),
    ("longdouble", "which is no type"),
    (np.longdouble, "which is no type"),
    ("datetime64[us]", "dates become 'int32' .days., times and intervals 'int64' .microseconds."),
    ("M8[ns]", "which is no type"),
    ("f4,i4", "which is no type"),
    ("", "which is no type"),
    (28, "says 28, which is no type"),
    (array.array, "which is no type"),
    (decimal.Decimal, "which is no type"),
    (sql.StructType([]), "for a struct write a dict of its fields"),
    ("struct<a:int>", "for a struct write a dict of its fields"),
    (sql.MapType(sql.StringType(), sql.FloatType()), "a map becomes the columns x.key and x.value"),
    (sql.NullType(), "which is no type"),
    (pa.list_(pa.float32()), "which is no type"),
    (("float32", (-2,)), "a length is a number from 0, or None"),
]


@pytest.mark.parametrize(("spelling", "text"), REFUSED, ids=map(str, range(len(REFUSED))))
def test_what_is_refused_is_told_with_the_right_spelling(spelling: Any, text: str) -> None:
    with pytest.raises(FormError, match=text) as caught:
        row_spec({"x": spelling})
    assert "column 'x'" in str(caught.value)
    assert len(str(caught.value)) < 350


def test_a_plain_channel_knows_the_same_spellings() -> None:
    rows = [(float(i), i, str(i)) for i in range(10)]
    with broker_here() as broker, Channel.attach(broker.address) as channel:
        with channel.reader() as reader, pytest.raises(FormError, match="say 'float64' or 'float32'"):
            reader.open_columns(10, {"c0": ("float", ())}, wait=False)
    with broker_here() as broker, Channel.attach(broker.address) as channel, channel.reader() as reader:
        reader.open_columns(10, {"c0": ("f4", ()), "c1": ("short", None), "c2": ("str", None)}, wait=False)
        with channel.writer() as writer:
            writer.write_rows(rows)
        batch = reader.next_batch(10)
        assert batch is not None
        assert [batch.columns[name].dtype for name in ("c0", "c1", "c2")] == [np.float32, np.int16, object]  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ["batches", "next_batch", "open_columns"])
def test_a_plain_channel_takes_a_spec_as_programs_write_it(how: str) -> None:
    spec = {"c0": "float32", "c1": (np.int16, None), "c2": ("int64", (None,)), "c3": ("uint8", 2), "c4": str}
    rows = [(0.5, 7, [1] * (i + 1), [1, 2], "a") for i in range(8)]
    with broker_here(end_after=1) as broker, Channel.attach(broker.address) as channel:
        thread, out = in_thread(lambda: fed.write(channel, [rows]))
        with channel.reader() as reader:
            if how == "open_columns":
                reader.open_columns(8, spec, wait=False)
            first = reader.next_batch(8, spec=spec) if how == "next_batch" else None
            batch = next(reader.batches(8, spec=spec)) if first is None else first.columns
        ended(thread)
        assert out == [None]
    assert [batch[name].dtype for name in ("c0", "c1", "c3", "c4")] == [np.float32, np.int16, np.uint8, object]
    assert batch["c2"].tolist() == [[1] * (i + 1) for i in range(8)]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (("float32", "int32"), r"a spec is a dict of column names, such as .*, not \('float32', 'int32'\)"),
        ("float32", "a spec is a dict of column names"),
        ({0: "float32"}, "a spec is a dict of column names"),
        ({"x": "float"}, "say 'float64' or 'float32'"),
        ({"x": ("float32",)}, "column 'x': the spec says .*, which is no type of a column"),
        ({"x": ("float32", 1, 2)}, "column 'x': the spec says .*, which is no type of a column"),
        ({"x": ("float32", "3")}, "column 'x': the spec says the shape .*; a length is a number from 0, or None for any"),
        ({"x": ("float32", (2.5,))}, "column 'x': the spec says the shape"),
    ],
)
def test_a_plain_channel_says_how_a_spec_is_written(spec: Any, text: str) -> None:
    with broker_here() as broker, Channel.attach(broker.address) as channel, channel.reader() as reader:
        with pytest.raises(FormError, match=text):
            next(reader.batches(8, spec=spec))


@pytest.mark.parametrize(
    ("nulls", "expected"),
    [({"c0": 7}, {"c0": [1, 7]}), (7, {"c0": [1, 7]}), (MASK, {"c0": [1, 0], "c0_mask": [True, False]}), ({"c0": MASK}, None)],
)
def test_a_plain_channel_takes_policies_as_programs_write_them(nulls: Any, expected: Any) -> None:
    with broker_here(end_after=1) as broker, Channel.attach(broker.address) as channel:
        thread, out = in_thread(lambda: fed.write(channel, [[(1,), (None,)]]))
        with channel.reader() as reader:
            with pytest.raises(FormError, match="None can become a number, a text or"):
                reader.open_columns(8, nulls={"c0": [0]}, wait=False)
            reader.open_columns(8, nulls=nulls, wait=False)
            (batch,) = reader.batches(8)
        ended(thread)
        assert out == [None]
    assert {name: values.tolist() for name, values in batch.items()} == (expected or {"c0": [1, 0], "c0_mask": [True, False]})  # type: ignore[union-attr]


def test_what_stands_for_none() -> None:
    given = {"a": 1, "b": 2.5, "c": "text", "d": b"\xff", "e": True, "f": MASK, "g": np.float32(0.5), "h": decimal.Decimal("1.5")}
    filled = [1, 2.5, "text", Octets(b"\xff"), True, None, 0.5, 1.5]
    assert null_policies(given) == {name: Nulls(fill, mask=name == "f") for name, fill in zip(given, filled, strict=True)}
    assert null_policies({"x": b"mask"}) == {"x": Nulls(Octets(b"mask"))}
    assert math.isnan(null_policies(np.nan)["*"].fill)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nulls", "text"),
    [
        ({"x": "mask"}, r"column 'x': nulls says the text 'mask'; .* write nulls=\{'x': tfos_fast.MASK\}, for .* b'mask'"),
        ({"x": "MASK"}, r"nulls=\{'x': tfos_fast.MASK\}"),
        ({"x": "tfos_fast.MASK"}, r"nulls=\{'x': tfos_fast.MASK\}"),
        ("mask", r"^nulls says the text 'mask'; .* write nulls=tfos_fast.MASK"),
        ({"x": None}, "column 'x': nulls says None; None can become a number, a text or tfos_fast.MASK"),
        ({"x": [0, 0]}, "column 'x': nulls says .0, 0.; None can become"),
        ({0: 0}, "nulls has the key 0; keys are names of columns"),
        ({"x": 2**70}, "which no integer type holds"),
        ({"x": "\ud800"}, "which has no UTF-8 form"),
        ({"x": object}, "None can become"),
    ],
)
def test_what_cannot_stand_for_none(nulls: Any, text: str) -> None:
    with pytest.raises(FormError, match=text):
        null_policies(nulls)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime.date(2020, 1, 1), r"columns of dates have days since 1970-01-01, so write 18262$"),
        (datetime.datetime(1970, 1, 1, 0, 0, 1, tzinfo=datetime.timezone.utc), r"microseconds, so write 1000000$"),
        (datetime.timedelta(milliseconds=2), r"microseconds, so write 2000$"),
        (np.datetime64(1_000_000_000, "ns"), r"microseconds, so write 1000000$"),  # its item() is nanoseconds
        (np.timedelta64(3, "s"), r"microseconds, so write 3000000$"),
        (np.datetime64("NaT"), "which is no value|no value"),
    ],
)
def test_times_that_stand_for_none_are_told_with_their_number(value: Any, text: str) -> None:
    with pytest.raises(FormError, match=text) as caught:
        null_policies({"x": value})
    assert "column 'x': nulls says" in str(caught.value)
