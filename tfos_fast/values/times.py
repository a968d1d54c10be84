"""Dates, times and spans of Python, numpy and pandas as the whole numbers that Arrow stores.

A naive ``datetime`` is local time of this process, as in ``collect()``, and its ``fold`` counts. ``numpy.datetime64`` has no time
zone: for a timestamp it is UTC, for a timestamp without a time zone it is what the clock shows. A whole number is what column mode
has: days, or microseconds. Finer units are floored, and what does not fit is an error.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
_UTC = datetime.timezone.utc
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=_UTC)
_NAIVE_EPOCH = datetime.datetime(1970, 1, 1)
_DAY_0 = datetime.date(1970, 1, 1)
_MICROSECOND = datetime.timedelta(microseconds=1)
_FAR = datetime.timedelta(days=7)
_DAYS_OF_YEARS = 10**6  # years whose days are counted without a wrap; int32 days end before

#: Attoseconds of each unit of numpy that has one length.
_UNITS = {"as": 1, "fs": 10**3, "ps": 10**6, "ns": 10**9, "us": 10**12, "ms": 10**15, "s": 10**18}
_UNITS |= {"m": 60 * 10**18, "h": 3600 * 10**18, "D": 86400 * 10**18, "W": 7 * 86400 * 10**18}


def is_missing(kind: type) -> bool:
    """Whether the only value of this type is pandas' missing value or missing time (pandas is not imported here)."""
    return kind.__name__ in ("NAType", "NaTType") and kind.__module__.startswith("pandas")


def timestamps(values: Sequence[Any]) -> list[int | None]:
    """Microseconds since 1970-01-01 UTC of each value.

    Raises
    ------
    TypeError
        A value is none that says a moment.
    OverflowError
    """
    return _each(values, np.datetime64, "us", _instant)


def wall_clocks(values: Sequence[Any]) -> list[int | None]:
    """Microseconds since 1970-01-01 00:00 on the same clock, for timestamps without a time zone. Raises as ``timestamps``."""
    return _each(values, np.datetime64, "us", _wall_clock)


def dates(values: Sequence[Any]) -> list[int | None]:
    """Days since 1970-01-01 of each value. Raises as ``timestamps``."""
    return _each(values, np.datetime64, "D", _day)


def spans(values: Sequence[Any]) -> list[int | None]:
    """Microseconds of each span of time. Raises as ``timestamps``."""
    return _each(values, np.timedelta64, "us", _span)


def in_units(times: np.ndarray, unit: str) -> tuple[np.ndarray, np.ndarray]:
    """``datetime64`` or ``timedelta64`` values as whole numbers of a unit, floored, and which of them are "not a time".

    Raises
    ------
    TypeError
        Spans of years or months, which have no fixed length; or spans without a unit.
    OverflowError
    """
    nat = np.isnat(times)
    if nat.all():
        return np.zeros(times.shape, np.int64), nat
    name, step = np.datetime_data(times.dtype)
    if name in ("Y", "M") and times.dtype.kind == "M":
        count = times.view(np.int64)[~nat]
        if max(-int(count.min()), int(count.max())) * step > _DAYS_OF_YEARS:
            raise OverflowError(f"{_out_of_range(times, nat)} does not fit")
        times = times.astype("M8[D]")
        name, step = "D", 1
    if name not in _UNITS:
        raise TypeError(f"{times.dtype.name} has no fixed length; give one of .astype('m8[us]')")
    count = np.where(nat, 0, times.view(np.int64))
    many, of = _UNITS[name] * step, _UNITS[unit]
    common = math.gcd(many, of)
    many, of = many // common, of // common
    if many > 1:
        if max(-int(count.min()), int(count.max())) * many > INT64_MAX:
            raise OverflowError(f"{_out_of_range(times, nat)} does not fit into 64 bits of unit {unit!r}")
        count = count * many
    return (count // of if of <= INT64_MAX else np.where(count < 0, -1, 0)), nat


def _out_of_range(times: np.ndarray, nat: np.ndarray) -> str:
    count = np.where(nat, 0, times.view(np.int64)).reshape(-1)
    worst = int(np.argmax(np.maximum(-(count + (count == INT64_MIN)), count)))
    return f"{int(count[worst])} of {times.dtype.name}"


def _each(values: Sequence[Any], kind: type, unit: str, one: Callable[[Any], int]) -> list[int | None]:
    kinds = set(map(type, values))
    if kinds == {kind} and len({value.dtype for value in values}) == 1:
        count, nat = in_units(np.array(values), unit)
        return [None if missing else number for number, missing in zip(count.tolist(), nat.tolist(), strict=True)]
    out: list[int | None] = []
    for value in values:
        if value is None or is_missing(type(value)):
            out.append(None)
        elif isinstance(value, kind):
            count, nat = in_units(np.array([value]), unit)
            out.append(None if nat[0] else int(count[0]))
        elif isinstance(value, int | np.integer) and not isinstance(value, bool | np.timedelta64):
            out.append(_in_64_bits(int(value), value))
        else:
            out.append(_in_64_bits(one(value), value))
    return out


def _in_64_bits(number: int, value: Any) -> int:
    if not INT64_MIN <= number <= INT64_MAX:
        raise OverflowError(f"{value!r:.200} does not fit into 64 bits of microseconds")
    return number


def _as_datetime(value: Any, wanted: str) -> datetime.datetime:
    """The datetime itself, pandas' as one of Python: without its nanoseconds, which floors it."""
    if not isinstance(value, datetime.datetime):
        raise TypeError(f"{value!r:.200} is of type {type(value).__name__}; give {wanted}")
    if hasattr(value, "to_pydatetime"):
        return value.to_pydatetime(warn=False)  # type: ignore[no-any-return]
    return value


def _instant(value: Any) -> int:
    moment = _as_datetime(value, "datetime.datetime, or numpy.datetime64 in UTC")
    if moment.tzinfo is not None and moment.utcoffset() is not None:
        return (moment - _EPOCH) // _MICROSECOND
    moment = moment.replace(tzinfo=None)
    try:
        # Not astimezone(): of a time that the clock skips, it takes the offset of the wrong side.
        return int(moment.replace(microsecond=0).timestamp()) * 1_000_000 + moment.microsecond
    except (OverflowError, ValueError):  # at the edge of the calendar: the offset is that of some days nearer to its middle
        inside = moment + (_FAR if moment.year < 5000 else -_FAR)
        offset = inside.astimezone().utcoffset()
        assert offset is not None
        return (moment - _NAIVE_EPOCH - offset) // _MICROSECOND


def _wall_clock(value: Any) -> int:
    moment = _as_datetime(value, "naive datetime.datetime, or numpy.datetime64")
    if moment.tzinfo is not None:
        raise TypeError(f"{moment!r} has a time zone, and the column has none; give .replace(tzinfo=None) of the zone you mean")
    return (moment - _NAIVE_EPOCH) // _MICROSECOND


def _day(value: Any) -> int:
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:
            raise TypeError(f"{value!r} has a time zone, and a date has none; give .date() of the zone you mean")
        value = value.date()
    if not isinstance(value, datetime.date):
        raise TypeError(f"{value!r:.200} is of type {type(value).__name__}; give datetime.date, or numpy.datetime64")
    return (value - _DAY_0).days


def _span(value: Any) -> int:
    if not isinstance(value, datetime.timedelta):
        raise TypeError(f"{value!r:.200} is of type {type(value).__name__}; give datetime.timedelta, or numpy.timedelta64")
    if hasattr(value, "to_timedelta64"):  # pandas' has nanoseconds, too
        return int(in_units(np.array([value.to_timedelta64()]), "us")[0][0])
    return value // _MICROSECOND
