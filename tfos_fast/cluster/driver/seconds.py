"""Waiting times as users give them. Pure."""

from __future__ import annotations

import numbers
from typing import Any

LONGEST = 1e8  # seconds, three years: what is longer, infinity included, is no more to anybody who waits


def seconds(value: Any, setting: str, *, zero: bool = False) -> float:
    """Read a number of seconds.

    Parameters
    ----------
    value : object
        As the user gave it.
    setting : str
        Its name, for the error.
    zero : bool
        0 has a meaning.

    Raises
    ------
    ValueError

    >>> seconds(3, "feed_timeout"), seconds(float("inf"), "feed_timeout")
    (3.0, 100000000.0)
    """
    number = -1.0 if isinstance(value, bool) or not isinstance(value, numbers.Real) else float(value)
    if not (number >= 0 if zero else number > 0):  # not so of NaN
        raise ValueError(f"{setting} is a number of seconds, {'0 or more' if zero else 'more than 0'}, not {value!r}")
    return min(number, LONGEST)
