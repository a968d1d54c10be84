"""The columns of a DataFrame on their way to the tasks: under names that Spark resolves, and with Spark's own types told.

Spark resolves the columns of ``mapInArrow`` by name, and so refuses ``a.b``, a backtick, and one name for two columns. Such a frame
is sent with other names, and the tasks give the batches their own names back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfos_fast.channel.arrow.spark_types import KEY, is_told, know
from tfos_fast.errors import SchemaMismatch

if TYPE_CHECKING:
    import pyarrow as pa

_RESOLVED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class FrameColumns:
    """What the tasks know of the columns of a DataFrame's batches.

    Parameters
    ----------
    names : tuple of str
        Of the columns, in order.
    spark : bytes, optional
        Spark's schema of them in JSON, where it says more than Arrow's types do.
    users : tuple of UserDefinedType
        Those that are defined in the driver's ``__main__``: no task can import them.
    """

    names: tuple[str, ...]
    spark: bytes | None = None
    users: tuple[Any, ...] = ()

    def given(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with the columns' own names, and with what Spark says of them. Values are not copied."""
        import pyarrow as pa

        if not self.names:
            return batch.select([])  # knows how many rows it has
        if batch.schema.names != list(self.names):
            fields = [field.with_name(name) for field, name in zip(batch.schema, self.names, strict=True)]
            batch = pa.RecordBatch.from_arrays(batch.columns, schema=pa.schema(fields))
        if self.users:
            know(self.users)
        return batch if self.spark is None else batch.replace_schema_metadata({KEY: self.spark})

    def all(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The batches that have rows, as :meth:`given`."""
        return (self.given(batch) for batch in batches if batch.num_rows)


def fields_of(frame: Any) -> list[dict[str, Any]]:
    """A DataFrame's fields as its schema's JSON has them: ``name``, ``type``. pyspark does not know every type of the JVM's."""
    if hasattr(frame, "_jdf"):
        return list(json.loads(frame._jdf.schema().json())["fields"])
    return [field.jsonValue() for field in frame.schema.fields]


def columns_of(frame: Any, fields: Sequence[dict[str, Any]]) -> FrameColumns:
    """Of some :func:`fields_of` a DataFrame.

    Raises
    ------
    SchemaMismatch
        Rows of such a type cannot be fed.
    """
    told = [{"name": field["name"], "type": field["type"]} for field in fields]
    for field in told:
        check_type(field["name"], field["type"])
    spark = json.dumps({"type": "struct", "fields": told}).encode() if any(is_told(field["type"]) for field in told) else None
    users = tuple(_of_main(frame.schema)) if spark is not None and b'"__main__.' in spark else ()
    return FrameColumns(tuple(field["name"] for field in told), spark, users)


def _of_main(kind: Any) -> Iterator[Any]:
    """The types of users inside a type of Spark that are defined in ``__main__``."""
    if hasattr(kind, "deserialize") and kind.module() == "__main__":
        yield kind
    parts = [getattr(kind, name, None) for name in ("elementType", "keyType", "valueType")]
    for part in [*parts, *(field.dataType for field in getattr(kind, "fields", ()))]:
        if part is not None:
            yield from _of_main(part)


def with_safe_names(frame: Any, names: Sequence[str]) -> tuple[Any, list[str]]:
    """The DataFrame and its columns' names, which are ``c0``, ``c1``, ... where Spark would not find one of them by its own.

    One without columns gets one, since pyspark loses the rows of a batch that has none.
    """
    if not names:
        return frame.selectExpr("true as c0"), ["c0"]
    lower = {name.lower() for name in names}  # Spark takes ``a`` and ``A`` for one name
    if len(lower) == len(names) and all(map(_RESOLVED.fullmatch, names)):
        return frame, list(names)
    others = [f"c{i}" for i in range(len(names))]
    return frame.toDF(*others), others


def check_type(name: str, node: Any) -> None:
    """Refuse a type that cannot be fed, before Spark or pyarrow fails on it in a task.

    Parameters
    ----------
    name : str
        Of the column.
    node : str or dict
        Its type as ``DataType.jsonValue()`` gives it.

    Raises
    ------
    SchemaMismatch
    """
    if isinstance(node, str):
        if node.startswith("interval") and ("year" in node or "month" in node):
            raise SchemaMismatch(
                f"column {name!r} is, or holds, {node.upper()}, which pyarrow cannot read; cast it to int (months) or string, or "
                "leave it out (DataFrame.drop)"
            )
        if node == "interval":
            raise SchemaMismatch(
                f"column {name!r} is, or holds, INTERVAL of months, days and microseconds, which is no value of Python (collect() "
                "fails, too) and comes back from no task; cast it to string, or leave it out (DataFrame.drop)"
            )
        return
    if node.get("type") == "struct":
        names = [field["name"] for field in node["fields"]]
        twice = sorted({each for each in names if names.count(each) > 1})
        if twice:
            raise SchemaMismatch(
                f"column {name!r} is, or holds, a struct with several fields called {twice[0]!r}, which Spark sends to no Python "
                "task; give each a name of its own (cast it to a struct of other names)"
            )
        for field in node["fields"]:
            check_type(name, field["type"])
    for key in ("elementType", "keyType", "valueType", "sqlType"):
        if key in node:
            check_type(name, node[key])
