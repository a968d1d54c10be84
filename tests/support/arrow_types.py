"""A user-defined type of Spark, and the rows of an Arrow batch."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.arrow_batches import feed, rows_of

types = pytest.importorskip("pyspark.sql.types")


def values(batch: Any) -> list[Any]:
    return [row[0] for row in rows_of(feed([batch], exact=True))]


class Point:
    """A class of a user."""

    def __init__(self, x: float, y: float) -> None:
        self.xy = (x, y)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.xy == self.xy

    __hash__ = None  # type: ignore[assignment]


class PointType(types.UserDefinedType):
    """Points, stored as lists of two doubles."""

    @classmethod
    def sqlType(cls) -> Any:
        return types.ArrayType(types.DoubleType(), False)

    @classmethod
    def module(cls) -> str:
        return __name__

    def serialize(self, obj: Any) -> Any:
        return list(obj.xy)

    def deserialize(self, datum: Any) -> Any:
        return Point(*datum)


Point.__UDT__ = PointType()  # type: ignore[attr-defined]  # Spark wants it of a row's values
