"""Batch sizes and waits that mean nothing are refused in a sentence, and whole numbers of any class are taken."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.support.helpers import broker_here, ended, in_thread
from tfos_fast.channel import Channel
from tfos_fast.tensors import DataFeed

WAYS = {
    "next_batch": lambda feed, n: feed.next_batch(n),
    "batches": lambda feed, n: next(feed.batches(n))["c0"],
    "tensors": lambda feed, n: next(feed.tensors(n)),
    "poll": lambda feed, n: feed.poll(n, 10.0),
}


def write(address):
    with Channel.attach(address).writer() as writer:
        writer.write_rows(range(100))


@pytest.mark.parametrize("way", WAYS)
def test_batch_sizes(way):
    with broker_here(end_after=1) as broker, Channel.attach(broker.address).reader() as reader:
        feed, read = DataFeed(reader), WAYS[way]
        thread, _ = in_thread(lambda: write(broker.address))
        if way in ("next_batch", "batches"):  # the others need TensorFlow for what they give
            assert len(read(feed, np.int64(7))) == 7
        for n in (0, -1, "3", 2.5, 3.0, None, [3], np.float64(3), np.int32(-2), *([] if way == "next_batch" else [True, 2**70])):
            with pytest.raises(ValueError, match="a batch size is a whole number of rows, 1 or more, not"):
                read(feed, n)
        feed.terminate()
        ended(thread)


def test_seconds_of_poll():
    with broker_here() as broker, Channel.attach(broker.address).reader() as reader:
        feed = DataFeed(reader)
        for timeout in (-1, math.nan, "1", None, True):
            with pytest.raises(ValueError, match="timeout is a number of seconds, 0 or more, not"):
                feed.poll(3, timeout)
