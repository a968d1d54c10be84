"""Going in step over a real channel of one node: whole epochs in either way, what is dropped, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.helpers import broker_here, ended, in_thread
from tfos_fast.channel import Channel
from tfos_fast.errors import FormError
from tfos_fast.tensors import DataFeed

pytestmark = pytest.mark.timeout(15)
SPEC = (("float32", (4,)), ("int64", ()))


def rows(first: int, last: int) -> Any:
    return ((np.full(4, i, np.float32), i) for i in range(first, last))


def write(channel: Channel, *sizes: int) -> None:
    first = 0
    with channel.writer() as writer:
        for number, size in enumerate(sizes):
            writer.open_partition(f"p{number}", 0)
            writer.write_rows(rows(first, first + size))
            writer.end_partition()
            first += size


@pytest.mark.parametrize("uneven", ["stop", "pad"])
def test_a_node_alone_gets_every_row(uneven: str):
    with Channel.create(memory="1m", slot_bytes="4k") as channel:
        write(channel, 300, 7, 100)
        feed = DataFeed(channel.reader())
        batches = list(feed.batches(64, SPEC, uneven=uneven))
        numbers = [i for batch in batches for i in batch["c1"].tolist()]
        if uneven == "pad":
            weights = np.concatenate([batch["sample_weight"] for batch in batches])
            assert [len(batch["c1"]) for batch in batches] == [64] * 7
            assert (weights == ([1] * 407 + [0] * 41)).all()
            assert numbers[407:] == [0] * 41
        else:
            assert [len(batch["c1"]) for batch in batches] == [64] * 6 + [23]
        assert sorted(numbers[:407]) == list(range(407))
        assert feed.should_stop()
        feed.reader.close()


@pytest.mark.parametrize("shuffle", [0, 200])
def test_an_epoch_ends_where_the_nodes_agree_and_its_rest_is_dropped(shuffle: int):
    """The part of other nodes is played here: they can do 3 steps of the first epoch, and no more, and 2 of the second."""
    pytest.importorskip("tensorflow")
    with broker_here() as broker:
        steps = broker.feed.steps
        steps.alone = False
        channel = Channel.attach(broker.address)
        feed = DataFeed(channel.reader())
        dataset = feed.dataset(32, SPEC, shuffle=shuffle, prefetch=0, uneven="stop")
        thread, _ = in_thread(lambda: write(channel, 5000))  # far more than the segment holds
        broker.do(lambda: steps.agree(0, 2, False))
        seen = iter(dataset)
        first = [next(seen)[1].numpy() for _ in range(2)]
        broker.do(lambda: steps.agree(0, 3, True))
        reading, rest = in_thread(lambda: [number.numpy() for _, number in seen])
        ended(thread)
        broker.finish_epoch()
        ended(reading)
        first += rest[0]
        assert [len(batch) for batch in first] == [32] * 3
        assert broker.feed.total.unused == 5000 - 96
        thread, _ = in_thread(lambda: write(channel, 40))
        ended(thread)
        broker.do(lambda: steps.settle(1, 1))
        assert steps.ready == 2
        broker.do(lambda: steps.agree(1, 2, True))
        broker.finish_epoch()
        assert sorted(i for _, batch in dataset for i in batch.numpy()) == list(range(40))
        broker.do(broker.end_feed)
        feed.reader.close()


def test_a_node_without_rows_pads_until_all_end():
    tf = pytest.importorskip("tensorflow")
    with broker_here() as broker:
        broker.feed.steps.alone = False
        feed = DataFeed(Channel.attach(broker.address).reader())
        dataset = feed.dataset(32, SPEC, uneven="pad", prefetch=0)
        assert dataset.element_spec == (
            tf.TensorSpec((32, 4), tf.float32),
            tf.TensorSpec((32,), tf.int64),
            tf.TensorSpec((32,), tf.float32),
        )
        broker.do(lambda: broker.feed.steps.agree(0, 3, True))
        broker.finish_epoch()
        assert [(float(tf.reduce_sum(x)), int(sum(y)), float(sum(w))) for x, y, w in dataset] == [(0, 0, 0)] * 3
        broker.do(broker.end_feed)
        assert [len(batch) for batch in feed.tensors(32, SPEC, uneven="pad")] == []
        assert feed.should_stop()
        feed.reader.close()


def test_what_is_refused():
    with Channel.create(memory="1m", slot_bytes="64k") as channel:
        write(channel, 100)
        feed = DataFeed(channel.reader())
        with pytest.raises(ValueError, match="none of 'stop', 'pad'"):
            feed.batches(10, uneven="both")
        with pytest.raises(FormError, match="every dtype and shape"):
            feed.batches(10, uneven="pad")
        next(feed.batches(10, SPEC, uneven="stop"))
        with pytest.raises(FormError, match="must be the same"):
            feed.batches(20, SPEC, uneven="stop")
        feed.reader.close()
    with Channel.create(memory="1m", slot_bytes="64k") as channel:
        write(channel, 100)
        feed = DataFeed(channel.reader())
        next(feed.batches(10, SPEC))
        with pytest.raises(FormError, match="from their first rows on"):
            feed.batches(10, SPEC, uneven="stop")
        feed.reader.close()
