"""Grouping of row groups, orders of partitions, and the patterns of paths."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfos_fast.cluster.files.parquet import pattern_of
from tfos_fast.cluster.files.splits import SPLIT_BYTES, Order, count_of, group

sizes = st.lists(st.integers(0, 10**9), max_size=60)


@given(sizes, st.integers(1, 80))
def test_groups_are_all_row_groups_in_order(sizes, count):
    groups = group(sizes, count)
    assert [i for part in groups for i in part] == list(range(len(sizes)))
    assert all(len(part) for part in groups)
    assert len(groups) <= count


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=60), st.integers(1, 80))
def test_no_group_is_much_larger_than_its_share(sizes, count):
    for part in group(sizes, count):
        assert sum(sizes[i] for i in part) <= sum(sizes) / count + max(sizes)


@given(st.integers(1, 1000), st.integers(1, 60), st.integers(1, 10))
def test_equal_row_groups_are_dealt_out_evenly(size, groups, each):
    assert [len(part) for part in group([size] * groups * each, groups)] == [each] * groups


def test_how_many_splits():
    assert group([], 3) == []
    assert count_of([], 4) == 1
    assert count_of([1] * 100, 2) == 8  # four for each core
    assert count_of([1] * 5, 2) == 5  # a row group is never cut
    assert count_of([SPLIT_BYTES // 2] * 100, 2) == 50  # none larger than 128 MiB


@given(st.integers(), st.integers(0, 10), st.integers(0, 200))
def test_an_order_has_every_partition_once_and_is_its_seeds(seed, epoch, partitions):
    order = Order(seed, epoch).of(partitions)
    assert sorted(order) == list(range(partitions))
    assert order == Order(seed, epoch).of(partitions)


def test_orders_differ_between_epochs_and_seeds():
    orders = [tuple(Order(seed, epoch).of(100)) for seed in range(10) for epoch in range(10)]
    assert len(set(orders)) == 100
    firsts = [order[0] for order in orders]
    assert len(set(firsts)) > 50  # any partition may be the first
    assert len({Order(1, epoch).turn % 2 for epoch in range(20)}) == 2


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.parquet", ["a.parquet", "a.b.parquet"], ["a/b.parquet", "aXparquet"]),
        ("day=*/part-?.pq", ["day=1/part-0.pq"], ["day=1/part-10.pq", "day=1/x/part-0.pq", "part-0.pq"]),
        ("**/*.pq", ["a.pq", "x/a.pq", "x/y/a.pq"], ["a.parquet"]),
        ("**", ["a", "x/a"], []),
        ("[ab]/[!c-e].pq", ["a/f.pq", "b/a.pq"], ["c/f.pq", "a/d.pq", "a//.pq"]),
        ("a+(b)^.*", ["a+(b)^.x"], ["aab^.x"]),
        ("[[]x]", ["[x]"], ["x"]),
    ],
)
def test_patterns_of_paths(pattern, yes, no):
    compiled = re.compile(pattern_of(pattern.split("/")))
    assert [path for path in yes + no if compiled.fullmatch(path)] == yes
