"""Columns that widen before the first batch: what was packed by the narrower ones keeps its values and its nulls."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import fed
from tests.support.helpers import broker_here, ended, in_thread
from tests.support.kept_epochs import Kept
from tests.support.rows import same
from tfos_fast import MASK
from tfos_fast.channel import Channel
from tfos_fast.errors import RowTooLarge
from tfos_fast.tf.declarations import null_policies

way = pytest.mark.parametrize("pickled", [False, True], ids=["rows", "pickled"])


@way
@pytest.mark.parametrize(
    "values",
    [
        [1.0, None, 2.0, "text", None],
        [None, 1, None, "text", 2],
        ["text", None, 1.5, None],
        [b"bytes", None, 1.5, None],
        [[1, 2], None, "text", None],
        [[1, 2], None, [3], None, "text"],
        [["a"], None, 1, None],
        [[[1], [2, 3]], None, "text", None],
        [True, None, [1.5], None],
    ],
    ids=repr,
)
def test_none_stays_none_when_a_column_becomes_one_of_objects(values: list[Any], pickled: bool) -> None:
    rows = [(value, i) for i, value in enumerate(values)]
    got = fed.columns([rows], nulls=MASK, pickled=pickled)
    assert same(got["c0"], values)
    assert "c0_mask" not in got
    halves = fed.columns([rows[:2], rows[2:]], nulls={"c0": MASK}, pickled=pickled)
    assert same(halves["c0"], values)


@way
@pytest.mark.parametrize(
    "values",
    [
        [[1, 1], None, [3]],
        [None, [1, 1], None, [], [3]],
        [[1, 1], None, [[2, 2]][0], [3, 4, 5], None],
        [["a"], None, ["b", "c"], None],
        [[b"a"], None, [b"b", b""]],
        [[[1], [2, 3]], None, [[4]]],
        [[[1, 2], [3, 4]], None, [[5, 6]], None],
        [[["a"], []], None, [["b"]]],
        [[], None, [1.5]],
        [[], None, [[1.5, 2.5]], [[1.5]]],
        [[[], []], None, [[1]]],
        [[[[1, 2]]], None, [[[3, 4]], []]],
    ],
    ids=repr,
)
def test_none_is_an_empty_list_where_lengths_differ(values: list[Any], pickled: bool) -> None:
    got = fed.columns([[(value,) for value in values]], nulls=MASK, pickled=pickled)
    assert got["c0"] == [[] if value is None else value for value in values]
    assert got["c0_mask"] == [value is not None for value in values]
    two = fed.columns([[(values[0],), (values[1],)], [(value,) for value in values[2:]]], nulls=MASK, pickled=pickled)
    assert two == got


@way
def test_columns_that_widen_one_after_the_other_all_widen_before_the_first_batch(pickled: bool) -> None:
    """Each change takes a slot; there are sixteen."""
    rows = [tuple(0.5 + i if i == k else i for i in range(40)) for k in range(40)]
    got = fed.columns([rows], n=64, pickled=pickled, memory="1m", slot_bytes="64k")
    assert got == {f"c{i}": [row[i] for row in rows] for i in range(40)}
    assert {type(value) for column in got.values() for value in column} == {float}


def test_partitions_of_one_row_do_not_end_the_widening() -> None:
    writers: list[list[Any]] = [[(i, str(i), [i] * 3)] for i in range(40)] + [[(0.5, "x", [1])]]
    got = fed.columns(writers, n=64)
    assert got["c0"] == [*map(float, range(40)), 0.5]
    assert got["c1"] == [*map(str, range(40)), "x"]
    assert got["c2"] == [*([i] * 3 for i in range(40)), [1]]


def test_few_slots_and_a_batch_as_large_as_all_of_them() -> None:
    rows = [(i, "x" * 900) for i in range(200)] + [(0.5, "y")]
    got = fed.columns([rows], n=10_000, memory="64k", slot_bytes="16k")
    assert got["c0"] == [row[0] for row in rows]
    assert got["c1"] == [row[1] for row in rows]


def test_a_reader_for_inference_waits_a_moment_before_it_fixes_the_columns() -> None:
    rows = [(1,), (2,), (2.5,)]
    with broker_here(end_after=1) as broker, Channel.attach(broker.address) as channel:

        def infer() -> list[Any]:
            with channel.writer() as writer:
                return [result for part in writer.exchange(iter(rows)) for result in part]

        thread, out = in_thread(infer)
        with channel.reader(train_mode=False) as reader:
            for batch in reader.batches(64):
                reader.write_results((batch["c0"] * 2).tolist())
        ended(thread)
        assert out == [[2.0, 4.0, 5.0]]


@way
@pytest.mark.parametrize("exact", [True, False], ids=["rows", "columns"])
@pytest.mark.parametrize(
    ("small", "large"),
    [
        ((b"", "caption"), (b"x" * 40_000, None)),
        ((b"", "caption"), (b"x" * 40_000, 7)),
        ((b"", b""), (b"x" * 40_000, "text")),
        ((b"", b""), (b"x" * 40_000, None)),
        ((b"", [1, 2]), (b"x" * 40_000, None)),
        ((b"", ["a"]), (b"x" * 40_000, [1])),
        ((b"", [[1], [2, 3]]), (b"x" * 40_000, "text")),
        (("", "caption"), ("x" * 40_000, b"bytes")),
    ],
)
def test_a_large_row_may_bring_another_kind(small: tuple, large: tuple, exact: bool, pickled: bool) -> None:
    """The row finds no room in a slot that was laid out for small ones, and a later column does not take its value."""
    rows = [*[small] * 50, large, small]
    size = {"memory": "512k", "slot_bytes": "64k"}
    if exact:
        assert same(fed.rows([rows], pickled=pickled, **size), rows)
        return
    got = fed.columns([rows], pickled=pickled, **size)
    assert got["c0"] == [row[0] for row in rows]
    assert got["c1"] == [row[1] for row in rows]


def test_a_row_that_is_too_large_is_still_refused() -> None:
    with pytest.raises(RowTooLarge, match="make slot_bytes larger"):
        fed.rows([[(b"", "caption"), (b"x" * 70_000, None)]], slot_bytes="64k")


def test_kept_epochs_are_the_same_as_the_first_one() -> None:
    """Rows that were copied out of their slots before the first batch are kept as well."""
    partitions: list[list[Any]] = [[(i, [i, i], None if i % 2 else i)] for i in range(30)] + [[(0.5, [1], "text"), (1, None, None)]]
    rows = [row for part in partitions for row in part]
    with broker_here("512k", "32k") as broker:
        it = Kept(broker, "memory", partitions, nulls=null_policies(MASK))
        first = it.epoch(64)
        assert [sum(batch["c0"].tolist() == [float(row[0]) for row in rows] for batch in first), len(first)] == [1, 1]
        assert first[0]["c1"].tolist() == [row[1] or [] for row in rows]
        assert first[0]["c1_mask"].tolist() == [row[1] is not None for row in rows]
        assert first[0]["c2"].tolist() == [row[2] for row in rows]
        for seed in (None, 7):
            done = it.replay(seed)
            again = it.epoch(64)
            assert done.wait(10)
            values = [row for batch in again for row in zip(*(batch[name].tolist() for name in ("c0", "c1", "c2")), strict=True)]
            wanted = [(float(a), b or [], c) for a, b, c in rows]
            assert values == wanted if seed is None else sorted(values, key=repr) == sorted(wanted, key=repr)
        status = broker.status()
        assert status["rows_taken"] == status["rows_published"] == 3 * len(rows)
        it.close()
