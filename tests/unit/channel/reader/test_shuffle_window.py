"""The shuffle window against any cut of rows into runs: every row once, memory bounded, the same seed the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfos_fast.channel.reader import shuffle_window as module
from tfos_fast.native import shuffle
from tfos_fast.values.aligned import is_aligned
from tfos_fast.values.ragged import Ragged, concatenate


def window_of(rows: int, seed: int, *, most_held: int) -> module.Window:
    return module.Window(rows, np.random.default_rng(seed), most_held=most_held)


def run(first: int, rows: int) -> dict[str, np.ndarray]:
    """Rows that know their number in every column."""
    number = np.arange(first, first + rows)
    return {
        "number": number,
        "byte": (number % 251).astype(np.uint8),
        "wide": np.repeat(number[:, None], 3, 1).astype(np.float32),
        "nothing": np.empty((rows, 0), np.float64),
        "text": np.array([str(i) for i in number] + [None], object)[:-1],
    }


def check(columns: dict[str, np.ndarray], rows: int) -> list[int]:
    """All columns tell the same rows."""
    number = columns["number"]
    assert len(number) == rows > 0
    assert columns["nothing"].shape == (rows, 0)
    assert (columns["byte"] == number % 251).all()
    assert (columns["wide"] == number[:, None]).all()
    assert columns["text"].tolist() == [str(i) for i in number]
    assert all(is_aligned(array) for array in columns.values() if not array.dtype.hasobject)
    return number.tolist()


def shuffled(window: module.Window, sizes: list[int], n: int, most: int, held: list[bool], bound: int) -> list[list[int]]:
    """Push runs of these sizes when they are wanted; the batches that come."""
    out, first, batch = [], 0, max(n, 1)
    for index, size in enumerate([*sizes, None]):
        if size is not None:
            window.push(run(first, size), size, held=held[index % len(held)])
            first += size
        assert window.held <= bound
        if size:  # private memory is looked at when a run comes
            assert window.private_rows <= 2 * window.waiting_rows + 64 + size
        while (drawn := window.draw(batch, most, last=size is None)) is not None:
            numbers = check(*drawn)
            out += [numbers[i : i + batch] for i in range(0, len(numbers), batch)]
    assert window.waiting_rows == window.held == window.private_rows == 0
    return out


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 60), max_size=15),
    rows=st.integers(1, 150),
    n=st.integers(1, 40),
    most=st.integers(1, 5),
    bound=st.integers(1, 4),
    held=st.lists(st.booleans(), min_size=1, max_size=3),
    seed=st.integers(0, 9),
)
def test_every_row_once_in_whole_batches(sizes: list[int], rows: int, n: int, most: int, bound: int, held: list[bool], seed: int):
    batches = shuffled(window_of(rows, seed, most_held=bound), sizes, n, most, held, bound)
    total = sum(sizes)
    assert sorted(i for batch in batches for i in batch) == list(range(total))
    assert [len(batch) for batch in batches] == [n] * (total // n) + ([total % n] if total % n else [])
    reach = max(rows, n)  # no row comes before it can be in the window
    assert all(max(batch) < index * n + reach for index, batch in enumerate(batches))


@settings(max_examples=100, deadline=None)
@given(cuts=st.lists(st.integers(1, 50), max_size=8), other=st.lists(st.integers(1, 50), max_size=8), most=st.integers(1, 4))
def test_the_seed_decides_and_not_how_rows_were_cut(cuts: list[int], other: list[int], most: int):
    def cut(sizes: list[int]) -> list[int]:
        return [*sizes, 400 - sum(sizes)]

    first = shuffled(window_of(100, 7, most_held=2), cut(cuts), 16, most, [True], 2)
    assert shuffled(window_of(100, 7, most_held=3), cut(other), 16, 1, [False, True], 3) == first
    assert shuffled(window_of(100, 8, most_held=2), cut(cuts), 16, most, [True], 2) != first


def test_rows_are_mixed_evenly():
    """Over many draws each row of a full window is as likely as the others."""
    counts = np.zeros(40)
    for seed in range(600):
        window = window_of(40, seed, most_held=4)
        window.push(run(0, 25), 25, held=True)
        window.push(run(25, 15), 15, held=True)
        drawn = window.draw(10)
        assert drawn is not None
        counts[check(*drawn)] += 1
    assert counts.sum() == 6000
    assert abs(counts - 150).max() < 60  # five standard deviations of 11 are 53


def test_slots_go_when_their_last_row_was_drawn_and_before_when_too_many_are_held():
    window = window_of(1000, 0, most_held=3)
    for i in range(10):
        window.push(run(100 * i, 100), 100, held=True)
        assert window.held <= 3
    assert window.compacted == 700
    while window.draw(64, last=True) is not None:
        pass
    assert (window.held, window.private_rows, window.waiting_rows) == (0, 0, 0)
    window.push(run(0, 100), 100, held=True)
    window.clear()
    assert (window.held, window.waiting_rows, window.draw(64, last=True)) == (0, 0, None)


def test_what_an_iterator_left_is_drawn_in_the_next_way():
    window = window_of(50, 0, most_held=2)
    window.push(run(0, 80), 80, held=True)
    seen = check(*window.draw(10))  # type: ignore[misc]
    window.configure(5, np.random.default_rng(1))
    while (drawn := window.draw(20, 9, last=True)) is not None:
        seen += check(*drawn)
    assert sorted(seen) == list(range(80))


def test_ragged_rows_are_drawn_whole():
    lists = [[i] * (i % 4) for i in range(60)]
    ragged = concatenate([Ragged(np.array(row, np.int64), [np.array([0, len(row)])]) for row in lists])
    window = window_of(10, 0, most_held=1)
    seen = []
    for at in (0, 20, 40):
        window.push({"n": np.arange(at, at + 20), "x": ragged[at : at + 20]}, 20, held=True)
        while (drawn := window.draw(7, last=at == 40)) is not None:
            seen += zip(drawn[0]["n"].tolist(), drawn[0]["x"].tolist(), strict=True)
    assert sorted(seen) == list(enumerate(lists))


def test_gather_and_pick_check_what_they_are_given():
    index = np.array([0, 1, 0], np.int32)
    source = [np.arange(4.0), None]
    with pytest.raises(ValueError, match="row 1 of source 1 is not there"):
        shuffle.gather(np.empty(3), source, index, np.array([0, 1, 2], np.int32), 8)
    with pytest.raises(ValueError, match="row 4 of source 0 is not there"):
        shuffle.gather(np.empty(1), source, index[:1], np.array([4], np.int32), 8)
    with pytest.raises(ValueError, match="do not fill 16"):
        shuffle.gather(np.empty(2), source, index, index, 8)
    with pytest.raises((ValueError, BufferError)):
        shuffle.gather(np.empty(1), [np.arange(8.0)[::2]], index[:1], index[:1], 8)
    out = np.empty(2, np.int32)
    with pytest.raises(ValueError, match="2 of 1 rows cannot be taken"):
        shuffle.pick(index.copy(), index.copy(), 1, np.zeros(2), out, out.copy(), np.ones(2, np.int64))
    with pytest.raises(ValueError, match="no source 1"):
        shuffle.pick(index.copy(), index.copy(), 3, np.zeros(2), out, out.copy(), np.ones(1, np.int64))
