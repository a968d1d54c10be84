"""Errors of values that no column takes: each names what was found, where, and what to feed in its place."""

from __future__ import annotations

import collections
import enum
import fractions
import pathlib
import threading
import uuid

import numpy as np
import pyarrow as pa
import pytest

from tests.support import fed
from tests.support.helpers import broker_here, ended, in_thread
from tfos_fast.channel import Channel
from tfos_fast.cluster.driver.seconds import seconds
from tfos_fast.errors import SchemaMismatch


class Colour(enum.Enum):
    RED = 1


Pair = collections.namedtuple("Pair", ["a", "b"])


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (2**63, r"it is beyond int64: feed numpy.uint64\(value\), a float, or text"),
        ([2**63], r"feed numpy.array\(value, numpy.uint64\), a float, or text"),
        ([[2**63], [1, 2]], r"feed numpy.array\(value, numpy.uint64\)"),
        ([2**64], "it is beyond the range of 64 bits: feed it as a float, or as text"),
        ([-1, 2**63], "it is beyond the range of 64 bits"),
        ("\ud800", "a lone surrogate, and so no UTF-8 form"),
        (range(3), r"feed list\(value\), or declare the column 'object'"),
        (collections.deque([1]), r"feed list\(value\)"),
        (uuid.UUID(int=1), r"feed str\(value\) or value.bytes"),
        (Colour.RED, "feed value.value"),
        (fractions.Fraction(1, 3), r"feed float\(value\)"),
        (pathlib.PurePosixPath("/a"), r"feed str\(value\)"),
        (pa.scalar(1), r"feed value.as_py\(\)"),
        (np.longdouble(1), r"no tensor has the type \S+: feed value.astype\('float64'\)"),
        (np.array([(1, 2.0)], "i4,f4"), r"feed each of its fields \(f0, f1\) as a column of its own, value\['f0'\]"),
        ([Pair(1, 2)], "a list of test_explain.Pair|a list of tests.unit.channel.schema.test_explain.Pair"),
    ],
)
def test_the_error_says_what_to_feed(value, found):
    for pickled in (False, True):
        with pytest.raises(SchemaMismatch, match=r"row 1: column 'c1': .*(?:" + found + ")") as caught:
            fed.columns([[(1, None), (2, value)]], nulls={"c1": 0}, tensors=True, pickled=pickled)
        assert str(caught.value).count("row 1: ") == 1


def test_numbers_beyond_int64_are_objects_whatever_lies_beside_them():
    for rows in ([[2**63], [5, 2]], [[5, 2], [2**63]], [[2**63, 1], [5]]):
        got = fed.columns([[(row,) for row in rows]])["c0"]
        assert got == rows
        assert all(type(row) is list for row in got)  # a list of nothing but such numbers came as an array
    unsigned = [np.array([2**63, 1], np.uint64), np.array([2, 2**64 - 1], np.uint64)]
    assert fed.columns([[(row,) for row in unsigned]])["c0"] == [row.tolist() for row in unsigned]


@pytest.mark.parametrize("how", [fed.rows, fed.columns])
def test_a_value_that_cannot_be_pickled_is_told_with_its_place(how):
    rows = [(i, "text" if i < 30 else threading.Lock()) for i in range(40)]
    words = r"row 30: column 'c1': a value of type lock cannot be pickled, .* \(TypeError: cannot pickle '_thread.lock' object\)"
    with pytest.raises(SchemaMismatch, match=words):
        how([rows])


def test_a_column_that_needs_more_after_the_first_batch_is_told_how_to_declare_it():
    rows = [(1, [1])] * 5 + [(1.5, [1])]
    with pytest.raises(SchemaMismatch, match=r"found values that need float64; .*spec=\{'c0': 'float64'\} declares"):
        _late(rows)
    with pytest.raises(SchemaMismatch, match=r"spec=\{'c1': \('int64', \(None,\)\)\} declares it"):
        _late([(1, [1])] * 5 + [(1, [1, 2])])


def _late(rows):
    """The last row comes when the first batch was read."""
    with broker_here(end_after=1) as broker, Channel.attach(broker.address) as channel:
        read = threading.Event()

        def write():
            with channel.writer() as writer:
                writer.write_rows(rows[:-1])
                writer.end_partition()
                read.wait(30)
                writer.write_rows(rows[-1:])

        thread, out = in_thread(write)
        with channel.reader() as reader:
            next(reader.batches(2))
            read.set()
            ended(thread)
        raise out[0]


def test_dictionaries_and_run_ends_of_views_are_decoded():
    for kind in (pa.string_view(), pa.binary_view()):
        values = pa.array(["a", None, "a long text that no view holds"]).cast(pa.string()).cast(kind)
        coded = pa.DictionaryArray.from_arrays(pa.array([0, None, 2, 1, 0]), values)
        batch = pa.RecordBatch.from_arrays([coded], ["x"])
        expected = ["a", None, "a long text that no view holds", None, "a"]
        expected = expected if kind == pa.string_view() else [v and v.encode() for v in expected]
        with broker_here(end_after=1) as broker, Channel.attach(broker.address) as channel:

            def write(channel=channel, batch=batch):
                with channel.writer() as writer:
                    writer.write_batch(batch)

            thread, _ = in_thread(write)
            with channel.reader() as reader:
                assert [row[0] for row in reader.next_rows(5)] == expected
            ended(thread)


def test_seconds_that_mean_nothing():
    assert seconds(np.float32(2), "x") == 2.0
    assert seconds(0, "x", zero=True) == 0.0
    for value in (0, -1, "10", None, float("nan"), True, [1]):
        with pytest.raises(ValueError, match=r"^feed_timeout is a number of seconds, more than 0, not "):
            seconds(value, "feed_timeout")
