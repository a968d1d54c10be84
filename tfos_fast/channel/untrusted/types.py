"""What a pickled value off a socket may name: data types only, each made here from arguments that are checked first.

Nothing that a stream names is imported or called because the stream names it. A name is a key of :data:`NAMES`; its maker looks at
the types and the sizes of the arguments, charges the budget for the memory that the value takes, and then makes it.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import math
import re
import sys
import uuid
from typing import Any

import numpy as np

from tfos_fast.channel.untrusted.budget import Budget, Name, Pending, are_types, check
from tfos_fast.channel.untrusted.spark_values import SPARK_NAMES
from tfos_fast.values.dtypes import dtype_of

# ---- Python's own ------------------------------------------------------------------------------------------------------------


def _complex(args: tuple[Any, ...], budget: Budget) -> complex:
    check(are_types(args, float, float), "a complex")
    budget.spend(32)
    return complex(*args)


_RANGE_BITS = 1024


def _range(args: tuple[Any, ...], budget: Budget) -> range:
    # Their length is a quotient, which takes long for numbers of many digits.
    check(are_types(args, int, int, int) and args[2] and all(arg.bit_length() <= _RANGE_BITS for arg in args), "a range")
    budget.spend(80)
    return range(*args)


def _slice(args: tuple[Any, ...], budget: Budget) -> slice:
    check(len(args) == 3, "a slice")
    budget.spend(56)
    return slice(*args)


def _ordered(args: tuple[Any, ...], budget: Budget) -> Any:
    check(args == (), "an OrderedDict")
    budget.spend(400)
    return collections.OrderedDict()


def _deque(args: tuple[Any, ...], budget: Budget) -> Any:
    most = args[1] if len(args) == 2 else None
    check(args == () or (len(args) < 3 and args[0] == () and (most is None or type(most) is int)), "a deque")
    budget.spend(760)
    return collections.deque(maxlen=most)


def _date(args: tuple[Any, ...], budget: Budget) -> datetime.date:
    check(are_types(args, bytes) and len(args[0]) == 4, "a date")
    budget.spend(32)
    high, low, month, day = args[0]
    return datetime.date(high << 8 | low, month, day)


def _zone(args: tuple[Any, ...]) -> Any:
    return args[1] if len(args) == 2 else None


def _time(args: tuple[Any, ...], budget: Budget) -> datetime.time:
    check((are_types(args, bytes) or are_types(args, bytes, datetime.timezone)) and len(args[0]) == 6, "a time")
    budget.spend(64)
    hour, minute, second, *micro = args[0]
    return datetime.time(hour & 0x7F, minute, second, int.from_bytes(bytes(micro), "big"), _zone(args), fold=hour >> 7)


def _datetime(args: tuple[Any, ...], budget: Budget) -> datetime.datetime:
    check((are_types(args, bytes) or are_types(args, bytes, datetime.timezone)) and len(args[0]) == 10, "a datetime")
    budget.spend(64)
    high, low, month, day, hour, minute, second, *micro = args[0]
    year, microsecond = high << 8 | low, int.from_bytes(bytes(micro), "big")
    return datetime.datetime(year, month & 0x7F, day, hour, minute, second, microsecond, _zone(args), fold=month >> 7)


def _timedelta(args: tuple[Any, ...], budget: Budget) -> datetime.timedelta:
    check(are_types(args, int, int, int), "a timedelta")
    budget.spend(40)
    return datetime.timedelta(*args)


def _timezone(args: tuple[Any, ...], budget: Budget) -> datetime.timezone:
    check(are_types(args, datetime.timedelta) or are_types(args, datetime.timedelta, str), "a timezone")
    budget.spend(32)
    return datetime.timezone(*args)


def _decimal(args: tuple[Any, ...], budget: Budget) -> decimal.Decimal:
    check(are_types(args, str) and args[0].isascii(), "a Decimal")
    budget.spend(104 + len(args[0]))
    return decimal.Decimal(args[0])


_FRACTION = re.compile(r"-?[0-9]{1,4000}(/[0-9]{1,4000})?", re.ASCII)
_FRACTION_BITS = 1 << 16


def _fraction(args: tuple[Any, ...], budget: Budget) -> fractions.Fraction:
    if are_types(args, str):  # Fraction("1e999999999") would have as many digits
        check(_FRACTION.fullmatch(args[0]), "a Fraction")
        args = tuple(int(part) for part in f"{args[0]}/1".split("/")[:2])
    check(are_types(args, int, int), "a Fraction")
    bits = [arg.bit_length() for arg in args]
    check(max(bits) <= _FRACTION_BITS, "a Fraction")
    # It is reduced, which takes as long as both are long. The same arguments may come over and over.
    budget.spend(120 + sum(bits) // 4 + (math.prod(bits) >> 11))
    return fractions.Fraction(*args)


class _Uuid(Pending):
    __slots__ = ()

    def build(self, state: Any, budget: Budget) -> uuid.UUID:
        check(type(state) is dict and set(state) <= {"int", "is_safe"} and type(state.get("int")) is int, "a UUID")
        check(0 <= state["int"] < 1 << 128 and state.get("is_safe") in (None, 0, -1), "a UUID")
        budget.spend(128)
        return uuid.UUID(int=state["int"], is_safe=uuid.SafeUUID(state.get("is_safe")))


# ---- numpy -------------------------------------------------------------------------------------------------------------------

_PLAIN = re.compile(r"b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SUV][0-9]{1,9}|[Mm]8|O8?", re.ASCII)
_UNITS = frozenset([b"Y", b"M", b"W", b"D", b"h", b"m", b"s", b"ms", b"us", b"ns", b"ps", b"fs", b"as"])
_ALIGNED = 0x80  # NPY_ALIGNED_STRUCT
_MOST_DIMS = 64
_FIELD = 64  # bytes of the budget: a field is looked at in each value of its type, and fields may lie upon each other


class _Dtype(Pending):
    """An element type. ``spec`` is what numpy calls it, or the Name of an element type of ml_dtypes."""

    __slots__ = ("spec",)

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.spec = spec

    def build(self, state: Any, budget: Budget) -> np.dtype:
        what = "a dtype"
        check(type(state) is tuple and len(state) in (8, 9) and type(state[1]) is str and state[1] in "<>|=", what)
        _, order, within, names, fields, size, _, flags, *meta = state
        budget.spend(120)
        if isinstance(self.spec, Name):
            check(within is names is fields is None and not meta, what)
            return dtype_of("bfloat16")
        if self.spec[0] in "Mm":
            check(within is names is fields is None and len(meta) == 1 and type(meta[0]) is tuple and len(meta[0]) == 2, what)
            check(not meta[0][0] and type(meta[0][1]) is tuple and len(meta[0][1]) == 4, what)
            unit, number, denominator, _ = meta[0][1]
            if unit == b"generic":
                return np.dtype(f"{order}{self.spec}")
            check(type(unit) is bytes and unit in _UNITS and type(number) is int and 0 < number < 2**31 and denominator == 1, what)
            return np.dtype(f"{order}{self.spec}[{number}{unit.decode()}]")
        check(not meta or meta == [None], what)
        if within is not None:
            check(_is_dtype(within), what)
            inner, shape = within
            check(_is_shape(shape) and not inner.hasobject and names is None, what)
            made = np.dtype((inner, shape))
            check(made.itemsize == inner.itemsize * math.prod(shape), what)
            return _sized(made, self.spec, what)
        if names is not None:
            return _sized(_struct(names, fields, size, flags, budget), self.spec, what)
        check(fields is None, what)
        return np.dtype(f"{order}{self.spec}")


def _is_dtype(within: Any) -> bool:
    return type(within) is tuple and len(within) == 2 and isinstance(within[0], np.dtype)


def _sized(made: np.dtype, spec: str, what: str) -> np.dtype:
    check(spec == f"V{made.itemsize}" or (spec == "V0" and not made.itemsize), what)
    return made


def _struct(names: Any, fields: Any, size: Any, flags: Any, budget: Budget) -> np.dtype:
    what = "a dtype"
    check(type(names) is tuple and type(fields) is dict and set(names) == set(fields), what)
    check(all(type(name) is str for name in names) and type(size) is int and 0 <= size < 2**31 and type(flags) is int, what)
    budget.spend(200 * len(names))
    parts = [fields[name] for name in names]
    for part in parts:
        check(_is_dtype(part) and type(part[1]) is int and 0 <= part[1] <= size, what)
        inner = part[0].base
        check(not inner.hasobject and (inner.fields is None or all(f[0].base.fields is None for f in inner.fields.values())), what)
        budget.spend(len(inner.names or ()) * 8)
    return np.dtype(
        {"names": list(names), "formats": [p[0] for p in parts], "offsets": [p[1] for p in parts], "itemsize": size},
        align=bool(flags & _ALIGNED),
    )


def _is_shape(shape: Any) -> bool:
    return type(shape) is tuple and len(shape) <= _MOST_DIMS and all(type(n) is int and 0 <= n < 2**40 for n in shape)


def _dtype(args: tuple[Any, ...], budget: Budget) -> _Dtype:
    check(len(args) == 3 and args[1] is False and args[2] is True, "a dtype")
    check(args[0] is _BFLOAT16 or (type(args[0]) is str and _PLAIN.fullmatch(args[0])), "a dtype")
    budget.spend(64)
    return _Dtype(args[0])


def _scalar(args: tuple[Any, ...], budget: Budget) -> Any:
    what = "a scalar of numpy"
    check(len(args) == 2 and isinstance(args[0], np.dtype) and type(args[1]) is bytes, what)
    dtype, data = args
    check(not dtype.hasobject and dtype.subdtype is None and len(data) == dtype.itemsize, what)
    budget.spend(64 + len(data))
    if not data:
        check(dtype.kind in "SU", what)
        return dtype.type()
    values = np.frombuffer(data, dtype)
    _check_text(values, budget)
    return values[0]


def _check_text(values: np.ndarray, budget: Budget) -> None:
    """Refuse text with what is no character: whoever reads it gets numpy's SystemError."""
    dtype = values.dtype
    names = dtype.names or ()
    budget.spend(_FIELD * len(names))
    for name in names:
        _check_text(values[name], budget)
    if dtype.kind == "U" and values.size:
        codes = np.ascontiguousarray(values).view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        check(codes.max() <= sys.maxunicode, "an array of text")


def _from_buffer(args: tuple[Any, ...], budget: Budget) -> np.ndarray:
    what = "an array"
    check(len(args) in (4, 5) and type(args[0]) in (bytes, bytearray) and isinstance(args[1], np.dtype), what)
    data, dtype, shape, order, *axes = args
    check(not dtype.hasobject and dtype.subdtype is None and dtype.itemsize and _is_shape(shape), what)
    check(len(data) == dtype.itemsize * math.prod(shape), what)
    budget.spend(200 + len(data))
    flat: np.ndarray = np.frombuffer(data, dtype) if data else np.empty(0, dtype)
    _check_text(flat, budget)
    if order == "K":
        check(len(axes) == 1 and _is_shape(axes[0]) and sorted(axes[0]) == list(range(len(shape))), what)
        transposed: np.ndarray = flat.reshape(shape).transpose(axes[0])
        return transposed
    check(order in ("C", "F") and axes in ([], [None]), what)
    array: np.ndarray = flat.reshape(shape, order=order)
    return array


class _Array(Pending):
    __slots__ = ()

    def build(self, state: Any, budget: Budget) -> np.ndarray:
        what = "an array"
        check(type(state) is tuple and len(state) == 5 and _is_shape(state[1]) and isinstance(state[2], np.dtype), what)
        _, shape, dtype, fortran, data = state
        check(type(fortran) is bool and dtype.subdtype is None and dtype.itemsize, what)
        count = math.prod(shape)
        if dtype.kind == "O":
            check(type(data) is list and len(data) == count, what)
            budget.spend(200 + 16 * count)
            values = np.empty(count, object)
            for i, value in enumerate(data):
                values[i] = value
            return np.array(values.reshape(shape), order="F" if fortran else "C")
        check(not dtype.hasobject and type(data) is bytes and len(data) == dtype.itemsize * count, what)
        budget.spend(200 + len(data))
        if not data:
            return np.empty(shape, dtype)
        made: np.ndarray = np.ndarray(shape, dtype, bytearray(data), order="F" if fortran else "C")
        _check_text(made, budget)
        return made


def _reconstruct(args: tuple[Any, ...], budget: Budget) -> _Array:
    check(len(args) == 3 and args[0] is _NDARRAY and args[1:] == ((0,), b"b"), "an array")
    budget.spend(64)
    return _Array()


_NDARRAY = Name("numpy.ndarray")
_BFLOAT16 = Name("ml_dtypes.bfloat16")

#: Everything that a stream may name.
NAMES: dict[tuple[str, str], Name] = {
    (module, name): Name(f"{module}.{name}", make)
    for module, name, make in [
        ("builtins", "complex", _complex),
        ("builtins", "range", _range),
        ("builtins", "slice", _slice),
        ("collections", "OrderedDict", _ordered),
        ("collections", "deque", _deque),
        ("datetime", "date", _date),
        ("datetime", "datetime", _datetime),
        ("datetime", "time", _time),
        ("datetime", "timedelta", _timedelta),
        ("datetime", "timezone", _timezone),
        ("decimal", "Decimal", _decimal),
        ("fractions", "Fraction", _fraction),
        ("numpy", "dtype", _dtype),
        *((f"numpy.{core}.multiarray", "_reconstruct", _reconstruct) for core in ("core", "_core")),
        *((f"numpy.{core}.multiarray", "scalar", _scalar) for core in ("core", "_core")),
        *((f"numpy.{core}.numeric", "_frombuffer", _from_buffer) for core in ("core", "_core")),
    ]
}
NAMES["uuid", "UUID"] = Name("uuid.UUID", new=_Uuid)
NAMES |= SPARK_NAMES
NAMES["numpy", "ndarray"] = _NDARRAY
NAMES["ml_dtypes", "bfloat16"] = _BFLOAT16
