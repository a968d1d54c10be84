"""Copies past the caches: any size, any alignment, nothing beyond."""

from __future__ import annotations

import numpy as np
import pytest

from tfos_fast.native.nt_copy import copy

LARGE = 1 << 18


@pytest.mark.parametrize("size", [0, 1, 63, LARGE - 1, LARGE, LARGE + 1, LARGE + 17, LARGE + 64, 3 * LARGE + 63])
@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, 1), (15, 7), (16, 3), (63, 64)])
def test_every_byte_and_no_other(size: int, shift: tuple[int, int]) -> None:
    to, origin = shift
    source = np.random.default_rng(size).integers(0, 256, size + origin, np.uint8)
    target = np.full(size + to + 64, 0xA5, np.uint8)
    copy(target[to : to + size], source[origin:])
    assert (target[to : to + size] == source[origin:]).all()
    assert (target[:to] == 0xA5).all()
    assert (target[to + size :] == 0xA5).all()


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="3 bytes do not fill 4"):
        copy(bytearray(4), b"abc")
    with pytest.raises(BufferError):
        copy(b"read-only", b"bytesbyte")
    with pytest.raises((BufferError, ValueError)):
        copy(np.zeros(4, np.uint8), np.zeros(8, np.uint8)[::2])
