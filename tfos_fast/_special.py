"""Values that are no numbers but have a number's meaning, and what column mode makes of them.

==============================================  ==================================================================================
value                                           becomes
==============================================  ==================================================================================
``datetime.date``                               int32, days since 1970-01-01
``datetime.datetime``                           int64, microseconds since 1970-01-01 UTC; one without a time zone is local time,
                                                as Spark takes it
``datetime.timedelta``                          int64, microseconds
``numpy.datetime64``, ``timedelta64``, arrays   int64, microseconds (not a time: no number)
``decimal.Decimal``                             float64, rounded
Spark ML and MLlib vectors and matrices         float64, dense
==============================================  ==================================================================================

Row mode keeps all of these as they are.
"""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np

_DAY_0 = datetime.date(1970, 1, 1)
_TIME_0 = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_MICROSECOND = datetime.timedelta(microseconds=1)
_LINALG = ("pyspark.ml.linalg", "pyspark.mllib.linalg")  # found by name: pyspark is not imported here


def is_linalg(value: object) -> bool:
    """Whether it is a vector or matrix of Spark ML or MLlib."""
    return type(value).__module__ in _LINALG and hasattr(value, "toArray")


def as_number(value: Any) -> np.ndarray | None:
    """The number, or array of numbers, that stands for the value; None when the table has none. Copies, except dense vectors."""
    if isinstance(value, datetime.datetime):
        try:
            aware = value if value.tzinfo is not None else value.astimezone()
        except (OverflowError, ValueError):  # too near the first or last year for this host's time zone
            return None
        return np.asarray((aware - _TIME_0) // _MICROSECOND, np.int64)
    if isinstance(value, datetime.date):
        return np.asarray((value - _DAY_0).days, np.int32)
    if isinstance(value, datetime.timedelta):
        microseconds = value // _MICROSECOND
        return np.asarray(microseconds, np.int64) if abs(microseconds) < 2**63 else None
    if isinstance(value, decimal.Decimal):
        return np.asarray(float(value), np.float64)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "Mm":
        return _microseconds(np.asarray(value))
    if is_linalg(value):
        return np.asarray(value.toArray(), np.float64)
    return None


def _microseconds(times: np.ndarray) -> np.ndarray | None:
    if np.isnat(times).any():
        return None
    return times.astype(f"{times.dtype.kind}8[us]").view(np.int64)
