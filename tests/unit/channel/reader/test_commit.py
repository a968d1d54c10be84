"""What a commit covers, for each way of reading; and a broker whose reader is killed and has a successor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.helpers import broker_here, child, ended, in_thread, wait_for
from tfos_fast.channel import Channel
from tfos_fast.errors import ChannelClosed, FormError, Yielded
from tfos_fast.tensors import DataFeed


def pairs(rows: int, first: int = 0) -> Any:
    return ((np.full(4, i, np.float32), i) for i in range(first, first + rows))


def publish(address: str, key: str, rows: int) -> None:
    with Channel.attach(address).writer() as writer:
        writer.open_partition(key, 1)
        writer.write_rows(pairs(rows))


def covered(feed: DataFeed, batches: int | None = None) -> dict[str, set[int]]:
    """Partition -> numbers of its rows."""
    rows = feed.position(batches)["rows"]
    return {
        key: {row for begin, end in spans for row in range(begin, end)}
        for of_epoch in rows.values()
        for key, spans in of_epoch.items()
    }


@pytest.mark.parametrize("way", ["next_batch", "batches", "poll"])
def test_what_was_given_is_covered_and_nothing_else(way):
    if way == "poll":
        pytest.importorskip("tensorflow")
    with broker_here() as broker:
        feed = DataFeed(Channel.attach(broker.address).reader())
        thread, _ = in_thread(lambda: publish(broker.address, "f/0/7", 1000))
        got: set[int] = set()
        batches = feed.batches(50) if way == "batches" else None
        for _ in range(9):
            if way == "next_batch":
                got.update(number for _, number in feed.next_batch(50))
            else:
                batch = next(batches) if batches else feed.poll(50, 30.0)
                got.update((batch["c1"] if batches else batch[1].numpy()).tolist())
        assert covered(feed) == {"7": got}
        feed.commit()
        assert broker.feed.deliveries.lost()["f/0/7"][0][0] == 450
        with pytest.raises(FormError, match="dataset"):
            feed.commit(3)
        feed.reader.terminate()
        ended(thread)
        feed.reader.close()
        with pytest.raises(ChannelClosed):
            feed.commit()


def test_batches_of_a_dataset_are_counted_not_those_that_were_read_ahead():
    tf = pytest.importorskip("tensorflow")
    spec = (tf.TensorSpec((4,), tf.float32), tf.TensorSpec((), tf.int64))
    with broker_here() as broker:
        feed = DataFeed(Channel.attach(broker.address).reader())
        dataset = feed.dataset(32, spec)
        thread, _ = in_thread(lambda: publish(broker.address, "f/0/0", 500))
        got: set[int] = set()
        iterator = iter(dataset.map(lambda *batch: batch))
        for count in range(1, 11):
            got.update(next(iterator)[1].numpy().tolist())
            assert covered(feed, count) == {"0": got}
            if count == 4:
                feed.commit(4)
        assert broker.feed.deliveries.lost()["f/0/0"][0][0] == 128
        for wrong, why in ((None, "reads ahead"), (3, "committed"), (17, "were handed out")):
            with pytest.raises(FormError, match=why):
                feed.commit(wrong)
        ended(thread)
        broker.finish_epoch()
        assert sum(len(batch[1]) for batch in iterator) == 180
        feed.commit()
        assert (broker.feed.deliveries.epoch, broker.feed.deliveries.lost()) == (1, {})
        # The next epoch, of which rows are drawn from a window.
        thread, _ = in_thread(lambda: publish(broker.address, "f/1/0", 500))
        shuffled = iter(feed.dataset(32, spec, shuffle=100))
        next(shuffled)
        with pytest.raises(FormError, match="shuffle window"):
            feed.commit(1)
        ended(thread)
        broker.finish_epoch()
        assert sum(1 for _ in shuffled) == 15
        feed.commit()
        assert (broker.feed.deliveries.epoch, broker.feed.deliveries.lost()) == (2, {})
        feed.reader.close()


def test_an_eager_loop_over_a_dataset_needs_no_number_and_counts_on_when_tensorflow_goes_on():
    tf = pytest.importorskip("tensorflow")
    spec = (tf.TensorSpec((4,), tf.float32), tf.TensorSpec((), tf.int64))
    with broker_here() as broker:
        feed = DataFeed(Channel.attach(broker.address).reader())
        thread, _ = in_thread(lambda: publish(broker.address, "f/0/0", 500))
        iterator = iter(feed.dataset(32, spec))
        got: set[int] = set()
        for _ in range(4):
            got.update(next(iterator)[1].numpy().tolist())
        assert covered(feed) == covered(feed, 4) == {"0": got}
        feed.commit()
        assert broker.feed.deliveries.lost()["f/0/0"][0][0] == 128
        step = tf.function(lambda batches: next(batches)[1])
        for count in (5, 6):
            got.update(step(iterator).numpy().tolist())
            assert covered(feed, count) == {"0": got}
        with pytest.raises(FormError, match="reads ahead"):
            feed.commit()
        feed.reader.terminate()
        ended(thread)
        feed.reader.close()


def read_some(pipe: Any, address: str, commit: bool) -> None:
    feed = DataFeed(Channel.attach(address).reader())
    batches = feed.batches(64)
    held = [next(batches) for _ in range(3)]
    if commit:
        feed.commit()
    held.append(next(batches))
    pipe.send([int(batch["c1"][0]) for batch in held])
    pipe.recv()


@pytest.mark.parametrize("commit", [False, True])
def test_a_killed_reader_has_a_successor(commit):
    with broker_here(memory="64k", slot_bytes="4k") as broker:
        broker.feed.recovers = True

        def write() -> int:
            with Channel.attach(broker.address).writer() as writer:
                writer.open_partition("f/0/0", 1)
                return writer.write_rows(pairs(100_000))

        with child(read_some, broker.address, commit) as first:
            thread, out = in_thread(write)
            assert first.hear() == [0, 64, 128, 192]
            first.kill()
        wait_for(lambda: broker.feed.reader is None)
        losses: list[Any] = []
        broker.do(lambda: losses.append(broker.restart()))
        ended(thread)
        assert isinstance(out[0], Yielded)  # though it waited for a slot, or was filling one
        attempt, published = losses[0].frontier["f/0/0"]
        assert attempt == 1
        assert published > 256
        assert losses[0].rows == {"f/0/0": [(192 if commit else 0, published)]}
        wait_for(lambda: broker.feed.status().slots["free"] == broker.segment.n_slots)
        assert broker.feed.status().rows_published == broker.feed.status().rows_taken
        # The next one may read in another way.
        reader = Channel.attach(broker.address).reader()
        thread, _ = in_thread(lambda: publish(broker.address, "f/0/0", 70))
        assert [number for _, number in reader.next_rows(70)] == list(range(70))
        ended(thread)
        reader.close()


def test_a_program_that_has_read_nothing_has_a_position_and_commits_nothing():
    with broker_here() as broker:
        feed = DataFeed(Channel.attach(broker.address).reader())
        thread, out = in_thread(lambda: (feed.position(), feed.commit()))  # they waited for an answer that nobody gave
        ended(thread)
        assert out == [({"epoch": 0, "rows": {}}, None)]
        writer, _ = in_thread(lambda: publish(broker.address, "f/0/7", 100))
        assert len(feed.next_batch(30)) == 30
        assert covered(feed) == {"7": set(range(30))}
        feed.terminate()
        ended(writer)
        feed.reader.close()
