"""Keys of dicts and sets that came off a socket: what they may cost to hash, to compare, and to be found in their table.

Python finds the place of a key by its hash. Who knows how may choose keys that share a hash, or keys whose places in the table are
taken by the ones before, so that each new key looks at thousands of places. Of numbers everybody can: their hashes are no secret.
The time that keys take is measured, as the processor's time of this thread, which other work on the machine does not lengthen.
"""

from __future__ import annotations

import datetime
import decimal
import fractions
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np

from tfos_fast.channel.untrusted.budget import Budget, Refused

_TEXTS = frozenset([str, bytes])
_KEYS = (
    str, bytes, float, complex, type(None), range, uuid.UUID, np.generic,
    datetime.date, datetime.time, datetime.timedelta, datetime.timezone,
)  # fmt: skip
_DEPTH = 32
_PART = 64  # bytes of the budget for each part of a key
_SHORT_INT = 1024  # bits
_SAME_HASH = 32  # keys of one container
_FEW = 2048  # keys of one container whose time is not worth a look
_AT_ONCE = 1024
_SECONDS, _BESIDE = 5e-6, 0.03  # of the processor, for each part of a key, and beside: ten times what keys take


class Keys:
    """The keys of one dict or set.

    Parameters
    ----------
    budget : Budget
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._hashes: dict[int, int] = {}  # how many keys have each hash
        self._count = 0
        self._left = _BESIDE

    def add(self, keys: list[Any], put: Callable[[int, int], object]) -> None:
        """Let more keys in.

        Parameters
        ----------
        keys : list
        put : callable
            ``put(start, stop)`` puts some of them into the container.

        Raises
        ------
        Refused
            They cannot be keys, or take too long.
        """
        self._count += len(keys)
        if self._count <= _FEW:
            self._check(keys)
            put(0, len(keys))
            return
        for start in range(0, len(keys), _AT_ONCE):
            stop = min(start + _AT_ONCE, len(keys))
            begin, budget = time.thread_time(), self._budget.left
            self._check(keys[start:stop])
            put(start, stop)
            self._left += _SECONDS * (stop - start + (budget - self._budget.left) / _PART) - (time.thread_time() - begin)
            if self._left < 0:
                raise Refused("keys that were chosen to take long")

    def _check(self, keys: list[Any]) -> None:
        """Refuse keys that take long to hash or to compare, before anybody does."""
        hashes = self._hashes
        for key in keys:
            kind = type(key)
            if kind in _TEXTS:  # computed once, and nobody finds many of one hash
                continue
            if kind is not int or key.bit_length() > _SHORT_INT:
                self._look_into(key)
            found = hash(key)
            count = hashes[found] = hashes.get(found, 0) + 1
            if count > _SAME_HASH:
                raise Refused(f"more than {_SAME_HASH} keys of one hash")

    def _look_into(self, key: Any) -> None:
        left: list[tuple[Any, int]] = [(key, 0)]
        while left:
            value, depth = left.pop()
            if depth > _DEPTH:
                raise Refused("a key that is nested too deep")
            if isinstance(value, tuple | frozenset):
                self._budget.spend(_PART + 8 * len(value))
                left += [(item, depth + 1) for item in value]
            elif isinstance(value, int):
                self._budget.spend(value.bit_length() >> 3)
            elif isinstance(value, decimal.Decimal):
                self._budget.spend(value.__sizeof__())
            elif isinstance(value, fractions.Fraction):
                self._budget.spend(value.numerator.bit_length() + value.denominator.bit_length())
            elif not isinstance(value, _KEYS) or isinstance(value, np.void):
                raise Refused(f"a {type(value).__name__} as a key")
