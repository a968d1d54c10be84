"""What users call element types, and the one name that each has here. Pure.

======================================================  ==========================================================================
spelling                                                name
======================================================  ==========================================================================
``"float32"``, ``"f4"``, ``"double"``, numpy's types    numpy's name, one of :data:`~tfos_fast.values.dtypes.DTYPES`
``tf.float32``, ``tf.string``                           the same; ``"string"``
``bool``, ``int``, ``float``, ``complex`` of Python     ``"bool"``, ``"int64"``, ``"float64"``, ``"complex128"``
``str``, ``bytes``, ``object``                          ``"string"``, ``"bytes"``, ``"object"``
Spark's ``DataType`` objects and classes                as their columns come: ``DateType`` is ``"int32"``; of an array its items'
``"bigint"``, ``"smallint"``, ``"array<float>"``, ...   as Spark's type; ``"vector"`` and ``"matrix"`` are ``"float64"``
``pyarrow`` types                                       their numpy type
``"float"``, ``"int"``, ``"integer"``, ``"uint"``       refused: numpy and Python mean 64 bits by them, Spark and others 32
======================================================  ==========================================================================
"""

from __future__ import annotations

import difflib
import re
from typing import Any

import numpy as np

from tfos_fast.errors import FormError
from tfos_fast.values.dtypes import DTYPES
from tfos_fast.values.nested import TEXTS

#: Names that say different things to different people, and what each of them says here.
_UNCLEAR = {
    "float": ("float64", "float32"),
    "int": ("int64", "int32"),
    "integer": ("int64", "int32"),
    "uint": ("uint64", "uint32"),
}
#: What Spark, SQL and others call types that numpy calls by another name, or not at all.
_NAMES = {
    "boolean": "bool",
    "byte": "int8",
    "tinyint": "int8",
    "short": "int16",
    "smallint": "int16",
    "long": "int64",
    "bigint": "int64",
    "real": "float32",
    "double": "float64",
    "vector": "float64",
    "matrix": "float64",
    "date": "int32",
    "timestamp": "int64",
    "timestamp_ntz": "int64",
    "str": "string",
    "binary": "bytes",
    "object": "object",
    **{name: name for name in TEXTS},
}
#: Of Spark's own types, where the meaning is clear.
_SPARK = _NAMES | {"float": "float32", "int": "int32", "integer": "int32"}
_LIKELY = sorted(DTYPES | {"string", "bytes", "object"})
_ARRAY = re.compile(r"array<(.+)>")
_DECIMAL = re.compile(r"decimal(\(.*\))?|dec(\(.*\))?|numeric(\(.*\))?")
_TEXT = re.compile(r"(var)?char\(.*\)|string collate .*")
_SPAN = re.compile(r"interval (day|hour|minute|second)( to (hour|minute|second))?")


def type_name(column: str, spelling: Any) -> str:
    """Return the element type that a spec's entry means: a name in DTYPES, ``"string"``, ``"bytes"`` or ``"object"``.

    Parameters
    ----------
    column : str
        For the error.
    spelling : object
        See the table above.

    Raises
    ------
    FormError
        It means no type, or one that feeds do not have, or not just one.
    """
    if isinstance(spelling, str):
        name = _of_text(column, spelling)
    elif _is_spark(spelling):
        name = _of_spark(spelling if isinstance(spelling, type) else spelling.simpleString())
    else:
        name = _of_object(spelling)
    if name is None:
        raise _unknown(column, spelling)
    return name


def _of_text(column: str, text: str) -> str | None:
    plain = " ".join(text.split()).lower()
    if plain in _UNCLEAR:
        long, short = _UNCLEAR[plain]
        raise FormError(
            f"column {column!r}: the spec says {text!r}, by which numpy and Python mean 64 bits and Spark and others 32; "
            f"say {long!r} or {short!r}"
        )
    name = _NAMES.get(plain) or (plain if plain in DTYPES else None) or _of_composed(plain)
    if name is not None:
        return name
    try:
        return _of_dtype(np.dtype(text))
    except (TypeError, ValueError, SyntaxError):
        return None


def _of_composed(plain: str) -> str | None:
    """What Spark writes with parameters; of an array the type of its items, since its lengths are those of the rows."""
    if array := _ARRAY.fullmatch(plain):
        inner = array[1].strip()
        return _SPARK.get(inner) or _of_composed(inner)
    if _DECIMAL.fullmatch(plain):
        return "float64"
    if _SPAN.fullmatch(plain):
        return "int64"
    return "string" if _TEXT.fullmatch(plain) else None


def _is_spark(spelling: Any) -> bool:
    kind = spelling if isinstance(spelling, type) else type(spelling)
    return hasattr(kind, "simpleString") and hasattr(kind, "typeName")


def _of_spark(kind: Any) -> str | None:
    if isinstance(kind, type):
        kind = kind.typeName()  # type: ignore[attr-defined]
    plain = kind.lower()
    return _SPARK.get(plain) or _of_composed(plain)


def _of_object(spelling: Any) -> str | None:
    if spelling is None:
        return None
    if getattr(spelling, "name", "") == "string" or spelling is str:
        return "string"
    try:
        spelling = getattr(spelling, "as_numpy_dtype", spelling)  # TensorFlow's
    except KeyError:  # variant, resource
        return None
    if not isinstance(spelling, type) and hasattr(spelling, "to_pandas_dtype"):  # pyarrow's
        text = {"string": "string", "large_string": "string", "binary": "bytes", "large_binary": "bytes"}.get(str(spelling))
        if text is not None:
            return text
        spelling = spelling.to_pandas_dtype()
        if spelling is np.object_:
            return None
    try:
        dtype = np.dtype(spelling)
    except (TypeError, ValueError):
        return None
    # numpy takes any class for one of objects.
    any_class = isinstance(spelling, type) and spelling is not object and spelling is not np.object_
    return None if dtype.kind == "O" and any_class else _of_dtype(dtype)


def _of_dtype(dtype: np.dtype) -> str | None:
    text = {"U": "string", "S": "bytes", "O": "object"}.get(dtype.kind)
    return text or (dtype.name if dtype.name in DTYPES else None)


def _unknown(column: str, spelling: Any) -> FormError:
    if spelling is None:
        return FormError(f"column {column!r}: the spec says None, which names no type; leave the column out, or say which it is")
    shown = spelling if isinstance(spelling, str) else getattr(spelling, "name", None) or getattr(spelling, "__name__", None)
    plain = str(shown or spelling).lower()
    text = f"column {column!r}: the spec says {spelling!r}, which is no type of a column"
    if plain.startswith(("struct", "row<")):
        return FormError(f"{text}; for a struct write a dict of its fields: {{{column!r}: {{'field': 'float32'}}}}")
    if plain.startswith("map"):
        return FormError(f"{text}; a map becomes the columns {column}.key and {column}.value")
    if plain.startswith(("datetime64", "timedelta64")):
        return FormError(f"{text}; dates become 'int32' (days), times and intervals 'int64' (microseconds)")
    close = difflib.get_close_matches(plain, [*_LIKELY, *_NAMES], n=1)
    if close:
        text += f"; did you mean {_NAMES.get(close[0], close[0])!r}?"
    return FormError(text if close else f"{text}; types are {', '.join(_LIKELY)}, or those of numpy, TensorFlow or Spark")
