"""What Spark says of Arrow columns that Arrow's own types do not tell: types of users, VARIANT, GEOMETRY and GEOGRAPHY.

Spark stores these as structs, numbers or lists. Its own description, a ``StructType`` in JSON, lies in the metadata of a Parquet
file's schema; batches of a DataFrame get it in the same place (see ``cluster/spark/frame_columns.py``). A *node* is a type in that
JSON: a name, or a dict.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Sequence
from typing import Any

from tfos_fast.channel.schema.explain import concerned
from tfos_fast.errors import SchemaMismatch

#: Where Spark writes its schema, apache/spark: ParquetReadSupport.SPARK_METADATA_KEY.
KEY = b"org.apache.spark.sql.parquet.row.metadata"
_VECTORS = ("ml.linalg.VectorUDT", "mllib.linalg.VectorUDT")
_MATRICES = ("ml.linalg.MatrixUDT", "mllib.linalg.MatrixUDT")


_users: dict[str, Any] = {}  # name -> a user's type that came along, since no other process can import it


def know(users: Sequence[Any]) -> None:
    """Take in types of users (UserDefinedType) that are defined in the driver's ``__main__``."""
    _users.update({_name(user): user for user in users})


def _name(user: Any) -> str:
    return f"{user.module()}.{type(user).__name__}"


def nodes(schema: Any) -> Sequence[Any]:
    """For each column its node if it holds a type that Arrow does not tell, else None. Empty when the schema says nothing."""
    text = (schema.metadata or {}).get(KEY)
    return () if text is None else _nodes(text, tuple(schema.names))


@functools.lru_cache(maxsize=256)
def _nodes(text: bytes, names: tuple[str, ...]) -> Sequence[Any]:
    try:
        fields = json.loads(text)["fields"]
        found = [(field["name"], field["type"] if is_told(field["type"]) else None) for field in fields]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ()  # somebody else's
    if not any(node is not None for _, node in found):
        return ()
    if tuple(name for name, _ in found) == names:
        return [node for _, node in found]
    by_name = {name: node for name, node in found if sum(name == other for other, _ in found) == 1}
    return [by_name.get(name) for name in names]


def described(batch: Any, told: Sequence[Any]) -> Any:
    """The ``pyarrow.RecordBatch`` with the columns' nodes in the place where :func:`nodes` looks."""
    fields = [{"name": name, "type": "void" if node is None else node} for name, node in zip(batch.schema.names, told, strict=True)]
    return batch.replace_schema_metadata({KEY: json.dumps({"type": "struct", "fields": fields}).encode()})


def is_told(node: Any) -> bool:
    """Whether it is, or holds, a type that Arrow does not tell."""
    if isinstance(node, str):
        return node == "variant" or node.startswith(("geometry", "geography"))
    if not isinstance(node, dict):
        return False
    if node.get("type") == "struct":
        return any(is_told(field["type"]) for field in node["fields"])
    inner = [node[key] for key in ("elementType", "keyType", "valueType") if node.get(key) is not None]
    return node.get("type") == "udt" or any(map(is_told, inner))


def field_of(node: Any, i: int) -> Any:
    """The node of a struct's field."""
    fields = node.get("fields") if isinstance(node, dict) else None
    return fields[i]["type"] if fields is not None and i < len(fields) else None


def part_of(node: Any, key: str) -> Any:
    """The node of a list's ``elementType``, a map's ``keyType`` or ``valueType``, or a user's type's ``sqlType`` (its storage)."""
    return node.get(key) if isinstance(node, dict) else None


def is_udt(node: Any) -> bool:
    """Whether it is a type of users (UserDefinedType): Spark's own vectors and matrices, too."""
    return isinstance(node, dict) and node.get("type") == "udt"


def is_vector(node: Any) -> bool:
    """Whether it is a vector of Spark ML or MLlib."""
    return is_udt(node) and _class(node).endswith(_VECTORS)


def is_matrix(node: Any) -> bool:
    """Whether it is a matrix of Spark ML or MLlib."""
    return is_udt(node) and _class(node).endswith(_MATRICES)


def is_value(node: Any, kind: Any = None) -> bool:
    """Whether it is VARIANT, GEOMETRY or GEOGRAPHY: one value, stored as a struct. Arrow fields of Spark say so, too."""
    return (isinstance(node, str) and is_told(node)) or (kind is not None and _marked(kind) is not None)


def named_type(error: SchemaMismatch, schema: Any) -> SchemaMismatch:
    """The error with the column's type and the way out, where that type is the cause: no tensor has it. Else as it is."""
    told = nodes(schema) or [None] * len(schema)
    for field, node in zip(schema, told, strict=True):
        way = _way_out(field.type, node) if concerned(error, field.name) and "object" in str(error) else ""
        if way:
            return SchemaMismatch(
                f"column {field.name!r}: values of type {_called(field.type, node)} are no tensor; {way}, or read the column with "
                "batches() or next_batch()"
            )
    return error


def _called(kind: Any, node: Any) -> str:
    name = node if isinstance(node, str) else _marked(kind)
    return name.upper() if name else str(kind)


def _way_out(kind: Any, node: Any) -> str:
    """What makes a tensor of values of a type that is none; empty where it is one."""
    import pyarrow as pa

    name = node if isinstance(node, str) else _marked(kind) or ""
    if name == "variant":
        return "feed what lies in them (variant_get, or a cast)"
    if name.startswith("geo"):
        return "feed their bytes (st_asbinary) or numbers (st_x, st_y)"
    if pa.types.is_interval(kind):
        return "feed numbers (extract) or text (cast to string)"
    if pa.types.is_null(kind):
        return "feed lists whose type is known (a cast)"
    if pa.types.is_time(kind):
        return "feed numbers (hour, minute, second) or text (cast to string)"
    if pa.types.is_map(kind):
        return "feed lists of the keys (map_keys) and of the values (map_values), each a column of its own"
    if pa.types.is_struct(kind):
        return "feed a list for each field (transform(c, x -> x.field)), each a column of its own"
    if pa.types.is_union(kind):
        return "feed values of one type"
    if kind.num_fields == 1:
        return _way_out(kind.field(0).type, part_of(node, "elementType"))
    return ""


def _class(node: dict[str, Any]) -> str:
    name = str(node.get("class") or node.get("pyClass") or "")
    return name if name.startswith(("org.apache.spark.", "pyspark.")) else ""


def _marked(kind: Any) -> str | None:
    """What the metadata of a struct's second field say that it is; Spark marks VARIANT and the like so."""
    import pyarrow as pa

    if not pa.types.is_struct(kind) or kind.num_fields != 2:
        return None
    metadata = kind.field(1).metadata or {}
    return next((name for name in ("variant", "geometry", "geography") if metadata.get(name.encode()) == b"true"), None)


def maker(node: Any, kind: Any) -> Any:
    """Makes the value that ``DataFrame.collect()`` gives, of the values that a UDT, VARIANT, GEOMETRY or GEOGRAPHY is stored as.

    Raises
    ------
    SchemaMismatch
        Its Python class cannot be found here.
    """
    name = node if isinstance(node, str) else (_marked(kind) or "") if node is None else ""
    try:
        types: Any = importlib.import_module("pyspark.sql.types")

        if is_udt(node):
            return _user_type(str(node["pyClass"]), types.UserDefinedType).deserialize
        if name == "variant":
            make = types.VariantVal
            return lambda value: make(*map(bytearray, value))
        of = types.Geometry if name.startswith("geometry") else types.Geography
        return lambda value: of(bytearray(value[1]), value[0])
    except (ImportError, AttributeError, KeyError, TypeError, ValueError) as error:
        called = (node.get("pyClass") or node.get("class")) if isinstance(node, dict) else name
        raise SchemaMismatch(
            f"values of Spark's type {called} cannot be made here ({error}); give the executors its Python module "
            "(spark.submit.pyFiles, SparkContext.addPyFile), or leave the column out (DataFrame.drop)"
        ) from error


def _user_type(name: str, base: type) -> Any:
    """A type of users by the name of its class.

    pyspark would unpickle the class itself, too, where the schema has it. A schema may be that of anybody's Parquet file.
    """
    if name in _users:
        return _users[name]
    module, _, attribute = name.rpartition(".")
    kind = getattr(importlib.import_module(module), attribute)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise TypeError(f"{name} is no UserDefinedType")
    return kind()
