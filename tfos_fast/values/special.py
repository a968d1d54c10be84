"""Values that are no numbers but have a number's meaning, and what column mode makes of them.

==============================================  =========  =======================================================================
value                                           unit       becomes
==============================================  =========  =======================================================================
``datetime.date``                               date       int32, days since 1970-01-01
``datetime.datetime``, ``pandas.Timestamp``     timestamp  int64, microseconds since 1970-01-01 UTC; one without a time zone is
                                                           local time, as Spark takes it
``numpy.datetime64``, arrays of it              timestamp  int64, microseconds since 1970-01-01 UTC
``datetime.timedelta``, ``pandas.Timedelta``,   duration   int64, microseconds
``numpy.timedelta64``, arrays of it
``decimal.Decimal``                                        float64, rounded; a signalling NaN becomes a quiet one
Spark ML and MLlib vectors and matrices                    float64, dense
==============================================  =========  =======================================================================

Nanoseconds and finer are rounded down. A value beyond the type's range is an error. Numbers of different units never share a
column. Row mode keeps all of these as they are.
"""

from __future__ import annotations

import datetime
import decimal
import math
from typing import Any

import numpy as np

from tfos_fast.errors import SchemaMismatch

#: A value as an array of numbers, and their unit.
Tagged = tuple[np.ndarray, str]

_DAY_0 = datetime.date(1970, 1, 1)
_TIME_0 = datetime.datetime(1970, 1, 1)
_MICROSECOND = datetime.timedelta(microseconds=1)
_PER_MICROSECOND = {"ns": 10**3, "ps": 10**6, "fs": 10**9, "as": 10**12}
_CYCLE = 400  # years after which the calendar repeats itself
_LINALG = ("pyspark.ml.linalg", "pyspark.mllib.linalg")  # found by name: pyspark is not imported here
_PANDAS_NULLS = ("NaTType", "NAType")  # so is pandas


def is_linalg(value: object) -> bool:
    """Whether it is a vector or matrix of Spark ML or MLlib."""
    return type(value).__module__ in _LINALG and hasattr(value, "toArray")


def is_missing(value: Any) -> bool:
    """Whether the value says that there is none: None, numpy's and pandas' NaT, pandas' NA. A float NaN is a number."""
    if value is None:
        return True
    if isinstance(value, np.generic):
        return value.dtype.kind in "Mm" and bool(np.isnat(value))
    kind = type(value)
    return kind.__name__ in _PANDAS_NULLS and kind.__module__.startswith("pandas.")


def as_number(value: Any) -> Tagged | None:
    """The number, or array of numbers, that stands for the value, and its unit; None when the table has none.

    Copies, except dense vectors.

    Raises
    ------
    SchemaMismatch
        The number does not fit its type.
    """
    if isinstance(value, datetime.date | datetime.timedelta) and is_missing(value):  # pandas' NaT is both
        return None
    if isinstance(value, datetime.datetime):
        return np.asarray(_moment(value), np.int64), "timestamp"
    if isinstance(value, datetime.date):
        return np.asarray((value - _DAY_0).days, np.int32), "date"
    if isinstance(value, datetime.timedelta):
        span = value // _MICROSECOND
        if not -(2**63) <= span < 2**63:
            raise _beyond(value, "64 bits of microseconds")
        return np.asarray(span, np.int64), "duration"
    if isinstance(value, decimal.Decimal):
        return np.asarray(_float(value), np.float64), ""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "Mm":
        microseconds = _microseconds(np.asarray(value))
        return None if microseconds is None else (microseconds, "timestamp" if value.dtype.kind == "M" else "duration")
    if is_linalg(value):
        return np.asarray(value.toArray(), np.float64), ""
    return None


def _beyond(value: Any, what: str) -> SchemaMismatch:
    return SchemaMismatch(
        f"{value!r} is outside of {what}; declare its column 'object' in the spec and read it with batches(), or use next_batch()"
    )


def _float(value: decimal.Decimal) -> float:
    if value.is_nan():
        return math.nan  # Python converts no signalling one
    number = float(value)
    if math.isinf(number) and value.is_finite():
        raise _beyond(value, "float64")
    return number


def _moment(value: datetime.datetime) -> int:
    """Microseconds since 1970 UTC. Python and pandas cannot convert what lies near the first and the last year: this can."""
    offset = value.utcoffset()
    try:
        # pandas.Timestamp has arithmetic and a range of its own.
        wall = datetime.datetime(
            value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond, fold=value.fold
        )
    except ValueError:
        raise _beyond(value, "the years 1 to 9999") from None
    if offset is None:
        local = wall
        if not 2 <= wall.year <= 9998:  # the time zone's offset is that of the same day in another cycle of the calendar
            local = wall.replace(year=wall.year + (_CYCLE if wall.year < 5000 else -_CYCLE))
        offset = local.astimezone().utcoffset()
        assert offset is not None
    return (wall - _TIME_0) // _MICROSECOND - offset // _MICROSECOND


def _microseconds(times: np.ndarray) -> np.ndarray | None:
    unit, step = np.datetime_data(times.dtype)
    if np.isnat(times).any():
        return None
    kind = times.dtype.kind
    if times.size and (unit == "generic" or (kind == "m" and unit in "YM")):
        what = "no unit" if unit == "generic" else "a unit without a fixed length"
        raise SchemaMismatch(f"{times.ravel()[0]!r} has {what}; give it one of weeks to attoseconds, as numpy.timedelta64(30, 'D')")
    if unit in _PER_MICROSECOND:  # numpy loses the sign of large ones
        counts = np.asarray(times.astype(times.dtype.newbyteorder("=")), order="C").view(np.int64)
        if step == 1:
            return counts // _PER_MICROSECOND[unit]
        exact = [count * step // _PER_MICROSECOND[unit] for count in counts.ravel().tolist()]
        return np.array(exact, np.int64).reshape(times.shape)
    out = times.astype(f"{kind}8[us]")  # numpy says nothing of what goes beyond
    whole = out.astype(times.dtype) == times
    if not whole.all():
        raise _beyond(times[~whole].ravel()[0], f"64 bits of microseconds (its unit is {unit})")
    return out.view(np.int64)
