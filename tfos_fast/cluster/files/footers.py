"""What a Parquet file holds, of its footer alone: the columns as a feed hands them out, and what cannot be read as it stands.

Arrow's own reading differs from Spark's in some places. INT96 is a moment (Arrow: a time without a zone). Timestamps have
microseconds. Intervals, VARIANT, GEOMETRY and users' types are named by Spark's schema in the file's metadata only. Spark up to
2.4 (and later ones in "legacy" mode) counted days before 1582-10-15 in the Julian calendar.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfos_fast.channel.arrow.spark_types import KEY, is_told, is_udt
from tfos_fast.cluster.files.unify import Held, structure

#: Where Spark writes which version wrote the file, and in which calendar (apache/spark: package sql).
VERSION = b"org.apache.spark.version"
LEGACY_DATES = b"org.apache.spark.legacyDateTime"
LEGACY_INT96 = b"org.apache.spark.legacyINT96"
TELLING = (KEY, VERSION, LEGACY_DATES, LEGACY_INT96)

_MONTHS = ("interval year", "interval month")


@dataclass(frozen=True)
class FileColumns:
    """The columns of one file.

    Attributes
    ----------
    path : str
    columns : dict of str to Held
        In the file's order.
    stored : dict of str to pyarrow.DataType
        The types that pyarrow reads.
    problems : dict of str to str
        Why a column cannot be fed.
    old : dict of str to list of str
        Of columns that may hold days of the old calendar: for each leaf ``"date"``, ``"timestamp"`` or ``""``.
    writer : str
        The Spark that wrote the file, for messages.
    """

    path: str
    columns: dict[str, Held]
    stored: dict[str, Any]
    problems: dict[str, str]
    old: dict[str, list[str]]
    writer: str


def describe(path: str, metadata: Any, schema: Any) -> FileColumns:
    """Say what a file holds.

    Parameters
    ----------
    path : str
    metadata : pyarrow.parquet.FileMetaData
    schema : pyarrow.Schema
        As pyarrow reads the file with ``coerce_int96_timestamp_unit="us"``.
    """
    words = metadata.metadata or {}
    nodes = _nodes(words.get(KEY))
    old_dates, old_int96 = _old(words)
    leaves = (metadata.schema.column(i).physical_type for i in range(metadata.num_columns))
    columns: dict[str, Held] = {}
    problems: dict[str, str] = {}
    old: dict[str, list[str]] = {}
    for field in schema:
        walk = _Walk(leaves, old_dates, old_int96)
        held = walk.held(field.type, nodes.get(field.name))
        if walk.problem:
            problems[field.name] = walk.problem
        if field.name in columns:
            problems[field.name] = "the file has two columns of this name"
        if any(walk.old):
            old[field.name] = walk.old
        columns[field.name] = held
    version = words.get(VERSION, b"").decode(errors="replace")
    return FileColumns(path, columns, dict(zip(schema.names, schema.types, strict=True)), problems, old, f"Spark {version or '2'}")


class _Walk:
    """Goes through a column's type; meets its leaves in the order in which the file has them."""

    def __init__(self, leaves: Iterator[str], old_dates: bool, old_int96: bool) -> None:
        self._leaves = leaves
        self._old_dates, self._old_int96 = old_dates, old_int96
        self.old: list[str] = []
        self.problem = ""

    def held(self, kind: Any, node: Any) -> Held:
        """What is handed out for this type, which Spark calls ``node``."""
        import pyarrow as pa

        if isinstance(kind, pa.BaseExtensionType):
            self.held(kind.storage_type, None)  # for its leaves
            return Held(kind, _told(node))
        if pa.types.is_dictionary(kind):
            return self.held(kind.value_type, node)
        if pa.types.is_struct(kind):
            return self._struct(kind, node)
        if pa.types.is_map(kind):
            key = self.held(kind.key_type, _part(node, "keyType"))
            value = self.held(kind.item_type, _part(node, "valueType"))
            changed = key.kind != kind.key_type or value.kind != kind.item_type
            whole = pa.map_(key.kind, value.kind) if changed else kind
            return Held(whole, structure("map", keyType=key.node, valueType=value.node))
        if hasattr(kind, "value_field"):
            items = self.held(kind.value_type, _part(node, "elementType"))
            whole = kind if items.kind == kind.value_type else _list_of(kind, items.kind)
            return Held(whole, _told(node) if is_udt(node) else structure("array", elementType=items.node))
        return self._leaf(kind, node)

    def _struct(self, kind: Any, node: Any) -> Held:
        import pyarrow as pa

        inner = node.get("sqlType") if is_udt(node) else node
        fields = [kind.field(i) for i in range(kind.num_fields)]
        parts = [self.held(field.type, _field(inner, field.name)) for field in fields]
        if node == "variant":
            if {field.name for field in fields} != {"metadata", "value"}:
                self.problem = (
                    "Spark wrote this VARIANT shredded, which pyarrow does not put together; feed the DataFrame, or write the file "
                    "with spark.sql.variant.writeShredding.enabled=false"
                )
            return Held(pa.struct([("value", pa.binary()), ("metadata", pa.binary())]), node)
        if all(part.kind == field.type for part, field in zip(parts, fields, strict=True)):
            whole = kind
        else:
            whole = pa.struct([field.with_type(part.kind) for part, field in zip(parts, fields, strict=True)])
        if is_udt(node):
            return Held(whole, node)
        return Held(whole, structure("struct", fields={field.name: part.node for field, part in zip(fields, parts, strict=True)}))

    def _leaf(self, kind: Any, node: Any) -> Held:
        import pyarrow as pa

        physical = next(self._leaves)
        old = ""
        if pa.types.is_timestamp(kind):
            int96 = physical == "INT96"
            kind = pa.timestamp("us", "UTC" if int96 or kind.tz else None)
            old = "timestamp" if kind.tz and (self._old_int96 if int96 else self._old_dates) else ""
        elif pa.types.is_date(kind):
            kind, old = pa.date32(), "date" if self._old_dates else ""
        elif pa.types.is_time(kind):
            kind = pa.time64("us")
        elif pa.types.is_duration(kind):
            kind = pa.duration("us")
        elif pa.types.is_decimal(kind) and kind.precision <= 38:
            kind = pa.decimal128(kind.precision, kind.scale)
        elif isinstance(node, str):
            if node.startswith("interval") and not node.startswith(_MONTHS) and kind == pa.int64():
                kind = pa.duration("us")
            elif srid(node) is not None:
                kind = pa.struct([("srid", pa.int32()), ("wkb", pa.binary())])
        self.old.append(old)
        return Held(kind, _told(node))


def _list_of(kind: Any, items: Any) -> Any:
    import pyarrow as pa

    field = kind.value_field.with_type(items)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(field, kind.list_size)
    return pa.large_list(field) if pa.types.is_large_list(kind) else pa.list_(field)


# ---- what Spark says of a file -----------------------------------------------------------------------------------------------


def _nodes(text: bytes | None) -> Mapping[str, Any]:
    try:
        found = {field["name"]: field["type"] for field in json.loads(text)["fields"]} if text else {}
        return found if all(map(_is_sound, found.values())) else {}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}  # somebody else's


def _is_sound(node: Any) -> bool:
    """Whether it is a type in Spark's JSON."""
    if not isinstance(node, dict):
        return isinstance(node, str)
    if is_udt(node):
        return "sqlType" not in node or _is_sound(node["sqlType"])
    if node.get("type") == "struct":
        return all(isinstance(field["name"], str) and _is_sound(field["type"]) for field in node["fields"])
    wanted = {"array": ("elementType",), "map": ("keyType", "valueType")}[node["type"]]
    return all(_is_sound(node[key]) for key in wanted)


def _field(node: Any, name: str) -> Any:
    fields: Sequence[Any] = node.get("fields", ()) if isinstance(node, dict) else ()
    return next((field["type"] for field in fields if field["name"] == name), None)


def _part(node: Any, key: str) -> Any:
    inner = node.get("sqlType") if is_udt(node) else node
    return inner.get(key) if isinstance(inner, dict) else None


def _told(node: Any) -> Any:
    """The node if it is a type that Arrow does not tell."""
    return node if is_told(node) else None


def srid(node: Any) -> int | None:
    """Return the number of the coordinate system of a GEOMETRY or GEOGRAPHY; None where it is neither, or pyspark lacks them."""
    if not isinstance(node, str) or not node.startswith(("geometry", "geography")):
        return None
    try:
        from pyspark.sql import types

        kind: Any = types._parse_datatype_json_value(node)
        number = kind.srid
    except (ImportError, AttributeError, KeyError, ValueError):
        return None
    return int(number)


def _old(words: Mapping[bytes, bytes]) -> tuple[bool, bool]:
    """Whether dates and timestamps, and INT96, may be of the old calendar (apache/spark: DataSourceUtils.getRebaseSpec)."""
    version = words.get(VERSION)
    if version is None:
        return (KEY in words,) * 2  # Spark before 2.4.6 named no version
    parts = version.decode(errors="replace").split(".")
    numbers = tuple(int(part) if part.isdigit() else 0 for part in parts[:2])
    return numbers < (3, 0) or LEGACY_DATES in words, numbers < (3, 1) or LEGACY_INT96 in words
