"""A program with a class and a Spark type of its own, run as ``__main__``: fed, kept, given back, from files, too."""

from __future__ import annotations

import sys

from pyspark.sql import Row, SparkSession
from pyspark.sql.types import (
    ArrayType,
    DoubleType,
    IntegerType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
    UserDefinedType,
)

import tfos_fast


class Point:
    """A place."""

    def __init__(self, x: float, y: float) -> None:
        self.x, self.y = x, y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    def __repr__(self) -> str:
        return f"Point({self.x}, {self.y})"

    __hash__ = None


class PointType(UserDefinedType):
    """Points, stored as lists."""

    @classmethod
    def sqlType(cls):
        return ArrayType(DoubleType(), False)

    @classmethod
    def module(cls):
        return "__main__"

    def serialize(self, obj):
        return [obj.x, obj.y]

    def deserialize(self, datum):
        return Point(*datum)


class Cents(int):
    """An amount."""


class CentsType(UserDefinedType):
    """Amounts, stored as numbers."""

    @classmethod
    def sqlType(cls):
        return LongType()

    @classmethod
    def module(cls):
        return "__main__"

    def serialize(self, obj):
        return int(obj)

    def deserialize(self, datum):
        return Cents(datum)


Point.__UDT__ = PointType()
Cents.__UDT__ = CentsType()
FIELDS = {
    "id": IntegerType(), "p": PointType(), "l": ArrayType(PointType()), "s": StructType([StructField("q", PointType())]),
    "m": MapType(StringType(), PointType()), "c": CentsType(),
}  # fmt: skip
ROWS = [
    (1, Point(1.0, 2.0), [Point(3.0, 4.0), None], Row(q=Point(5.0, 6.0)), {"k": Point(7.0, 8.0)}, Cents(9)),
    (2, None, None, None, None, None),
]


def serve(args, ctx):
    """Give each row back, or what it looks like."""
    feed = ctx.get_data_feed(train_mode=False)
    while not feed.should_stop():
        rows = feed.next_batch(7)
        if rows:
            feed.batch_results([repr(tuple(row)) if args == "text" else tuple(row) for row in rows])


def note(args, ctx):
    """Leave the rows' text."""
    feed = ctx.get_data_feed()
    rows = []
    while not feed.should_stop():
        rows += [tuple(row) for row in feed.next_batch(7)]
    with open(args, "w") as out:
        out.write(repr(rows))


def main(folder: str) -> None:
    """Compare with ``collect()``."""
    session = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    frame = session.createDataFrame(ROWS, StructType([StructField(name, kind) for name, kind in FIELDS.items()])).coalesce(1)
    rows = frame.collect()
    assert [tuple(row) for row in rows] == ROWS
    with tfos_fast.run(session.sparkContext, serve, "text", 1, memory="8m") as cluster:
        assert [row.t for row in cluster.infer(frame, schema="t string").collect()] == [repr(row) for row in ROWS]
        kept = cluster.infer(frame, schema="t string", columns=["id"], keep=list(FIELDS)).collect()
        assert [tuple(row)[:-1] for row in kept] == ROWS, kept
        kept = cluster.infer(frame, columns=["id"], keep=["m", "p"]).collect()  # without a schema
        assert [tuple(row)[:-1] for row in kept] == [(row.m, row.p) for row in rows], kept
    with tfos_fast.run(session.sparkContext, serve, "rows", 1, memory="8m") as cluster:
        schema = "id int, p array<double>, l array<array<double>>, s struct<q:array<double>>, m map<string,array<double>>, c bigint"
        found = [tuple(row) for row in cluster.infer(frame, schema=schema).collect()]
        assert found == [(1, [1.0, 2.0], [[3.0, 4.0], None], Row(q=[5.0, 6.0]), {"k": [7.0, 8.0]}, 9), (2, *[None] * 5)], found
    frame.write.parquet(f"{folder}/files")
    with tfos_fast.run(session.sparkContext, note, f"{folder}/noted", 1, memory="8m") as cluster:
        cluster.feed(tfos_fast.parquet(f"{folder}/files"))
    with open(f"{folder}/noted") as noted:
        assert noted.read() == repr(ROWS)
    session.stop()
    print("as collect() has it")


if __name__ == "__main__":
    main(sys.argv[1])
