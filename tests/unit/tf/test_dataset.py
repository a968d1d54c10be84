"""``dataset()`` with real TensorFlow: structures, chunks of small batches, the shuffle window, epochs, what stands behind it."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

import numpy as np
import pytest

from tests.support.helpers import broker_here, child, ended, in_thread, inside, write_images
from tfos_fast.channel import Channel
from tfos_fast.errors import ChannelClosed, FormError, SchemaMismatch
from tfos_fast.tensors import DataFeed

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.tensorflow

IMAGES = (("float32", (16,)), ("int64", ()))


def fill(channel: Channel, rows: Any) -> None:
    with channel.writer() as writer:
        writer.write_rows(rows)


def images(rows: int, first: int = 0) -> Any:
    return ((np.full(16, i, np.float32), i) for i in range(first, first + rows))


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def numbers(dataset: Any) -> list[list[int]]:
    """The rows of each batch, checked."""
    out = []
    for values, number in dataset:
        assert (values.numpy() == number.numpy()[:, None]).all()
        out.append(number.numpy().tolist())
    return out


def piped(dataset: Any) -> Any:
    """The same batches by way of TensorFlow's pipeline, as ``fit`` and ``map`` get them."""
    return dataset.map(lambda *batch: batch if len(batch) > 1 else batch[0])


WAYS = pytest.mark.parametrize("way", [lambda dataset: dataset, piped], ids=["eager", "piped"])


@WAYS
@pytest.mark.parametrize("prefetch", [0, 2, -1])
@pytest.mark.parametrize("drop", [False, True])
def test_chunks_of_small_batches_are_batches_again(prefetch: int, drop: bool, way: Any):
    with Channel.create(memory="1m", slot_bytes="64k") as channel:
        with channel.writer() as writer:
            for first in range(0, 3000, 1000):  # partitions with tails: batches of several slots and of the carry
                writer.write_rows(images(1000, first))
                writer.end_partition()
        feed = DataFeed(channel.reader())
        dataset = feed.dataset(64, IMAGES, drop_remainder=drop, prefetch=prefetch)
        rows = 64 if drop else None  # as tf.data's own batch() says it
        assert dataset.element_spec == (tf.TensorSpec((rows, 16), tf.float32), tf.TensorSpec((rows,), tf.int64))
        assert dataset.options().experimental_distribute.auto_shard_policy == tf.data.experimental.AutoShardPolicy.OFF
        batches = numbers(way(dataset))
        assert [len(batch) for batch in batches] == [64] * 46 + ([] if drop else [56])
        assert len(set(flat(batches))) == (46 * 64 if drop else 3000)
        feed.reader.close()


@pytest.mark.parametrize(("width", "pipe"), [(4200, piped), (42, lambda dataset: dataset)], ids=["piped", "eager"])
def test_batches_alias_the_slot(width: int, pipe: Any):
    """Large ones from the pipeline, all in an eager loop."""
    with Channel.create(memory="48m", slot_bytes="4m") as channel:
        fill(channel, (np.full(width, i, np.float32) for i in range(192)))
        feed = DataFeed(channel.reader())
        for batch in pipe(feed.dataset(64)):
            assert inside(np.asarray(memoryview(batch)), feed.reader)
        assert feed.reader.summary["copied"] == 0
        del batch
        feed.reader.close()


@pytest.mark.parametrize(("batch", "memory", "way"), [(64, "64k", piped), (50, "1m", piped), (50, "64k", lambda dataset: dataset)])
def test_shuffle_takes_every_row_once(batch: int, memory: str, way: Any):
    """A window larger than the smaller segment: it goes on by copies."""
    rows = 20_000
    with Channel.create(memory=memory, slot_bytes="8k") as channel, child(write_numbers, channel.address, rows) as writer:
        feed = DataFeed(channel.reader())
        batches = numbers(way(feed.dataset(batch, IMAGES, shuffle=3000, seed=1)))
        assert writer.hear() == "written"
        seen = flat(batches)
        assert sorted(seen) == list(range(rows))
        assert [len(one) for one in batches[:-1]] == [batch] * (len(batches) - 1)
        assert seen != sorted(seen)
        assert np.mean([np.std(one) for one in batches]) > 500  # each batch is spread over the window
        assert feed.should_stop()
        feed.reader.close()


def write_numbers(pipe: Any, address: str, rows: int) -> None:
    fill(Channel.attach(address), images(rows))
    pipe.send("written")


def test_the_seed_gives_the_same_order_and_the_rest_goes_to_the_next_iterator():
    def read(seed: int | None) -> list[list[int]]:
        with Channel.create(memory="1m", slot_bytes="16k") as channel:
            fill(channel, images(2000))
            feed = DataFeed(channel.reader())
            batches = numbers(feed.dataset(64, IMAGES, shuffle=500, seed=seed))
            feed.reader.close()
            return batches

    first = read(3)
    assert read(3) == first
    assert read(4) != first
    with Channel.create(memory="1m", slot_bytes="16k") as channel:
        fill(channel, images(2000))
        feed = DataFeed(channel.reader())
        dataset = feed.dataset(64, IMAGES, shuffle=500, seed=3, prefetch=0)
        seen = numbers(dataset.take(5))
        assert seen == first[:5]
        gc.collect()
        assert not feed.should_stop()
        seen += numbers(feed.dataset(64, IMAGES, shuffle=100, prefetch=0))
        assert sorted(flat(seen)) == list(range(2000))
        feed.reader.close()


def test_terminate_empties_the_window():
    with Channel.create(memory="1m", slot_bytes="16k") as channel:
        fill(channel, images(2000))
        feed = DataFeed(channel.reader())
        for batch in feed.dataset(64, IMAGES, shuffle=500):
            assert len(batch[1]) == 64
            assert not feed.should_stop()
            feed.terminate()
            break
        assert feed.should_stop()
        feed.reader.close()


def test_the_window_ends_with_the_epoch():
    with broker_here() as broker:
        channel = Channel.attach(broker.address)

        def write() -> None:
            for epoch in range(3):
                with channel.writer() as writer:
                    writer.write_rows(images(100, 1000 * epoch))
                if epoch != 1:  # the second epoch goes on with rows of another writer
                    broker.finish_epoch()
            broker.do(broker.end_feed)

        thread, _ = in_thread(write)
        feed = DataFeed(channel.reader())
        dataset = feed.dataset(32, IMAGES, shuffle=1000, seed=0)
        epochs = [flat(numbers(dataset)) for _ in range(2)]
        assert sorted(epochs[0]) == list(range(100))
        assert sorted(epochs[1]) == [*range(1000, 1100), *range(2000, 2100)]
        assert epochs[0] != list(range(100))
        assert numbers(dataset) == []
        assert feed.should_stop()
        ended(thread)
        feed.reader.close()
        channel.close()


def test_keras_takes_a_nested_spec():
    rows = [{"a": float(i), "b": [i, 2 * i], "y": i % 3, "unused": [None, object]} for i in range(300)]
    spec = ({"a": tf.TensorSpec((), tf.float32), "b": ("float32", (2,))}, tf.TensorSpec((), tf.int32, name="y"))
    inputs = {"a": tf.keras.Input((), name="a"), "b": tf.keras.Input((2,), name="b")}
    joined = tf.keras.layers.Concatenate()([tf.keras.layers.Reshape((1,))(inputs["a"]), inputs["b"]])
    model = tf.keras.Model(inputs, tf.keras.layers.Dense(3)(joined))
    model.compile("sgd", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    steps: list[int] = []
    count = tf.keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs=None: steps.append(batch))
    with Channel.create(memory="1m") as channel:
        fill(channel, rows)
        feed = DataFeed(channel.reader())
        dataset = feed.dataset(64, spec, shuffle=100)
        assert dataset.element_spec[0]["b"] == tf.TensorSpec((None, 2), tf.float32)
        assert dataset.element_spec[1] == tf.TensorSpec((None,), tf.int32)
        model.fit(dataset, epochs=1, verbose=0, callbacks=[count])
        assert len(steps) == 5
        feed.reader.close()


def test_a_nested_spec_shapes_tensors_and_waits_for_open_shapes():
    with Channel.create(memory="1m") as channel:
        fill(channel, ((float(i), [i, i], i) for i in range(256)))
        feed = DataFeed(channel.reader())
        spec = (("float32", "int16"), "int32")
        (x, pair), y = next(feed.tensors(64, spec))
        assert (x.dtype, pair.dtype, y.dtype) == (tf.float32, tf.int16, tf.int32)
        (x, pair), y = feed.poll(64, timeout=5, spec=spec)
        assert y.numpy()[0] == 64
        dataset = feed.dataset(64, spec)
        assert dataset.element_spec[0][1] == tf.TensorSpec((None, 2), tf.int16)
        assert [int(y[0]) for _, y in dataset] == [128, 192]
        feed.reader.close()
    with Channel.create(memory="1m") as channel:
        fill(channel, ({"x": float(i), "y": i} for i in range(64)))
        feed = DataFeed(channel.reader())
        with pytest.raises(SchemaMismatch, match="the spec names 'z'"):
            feed.dataset(64, ({"x": "float32"}, {"z": "int32"}))
        feed.reader.close()


def test_map_prefetch_shuffle_and_cache_behind_it():
    with Channel.create(memory="128k", slot_bytes="16k") as channel, child(write_images, channel.address, 5000) as writer:
        feed = DataFeed(channel.reader())
        dataset = feed.dataset(64, (("float32", (16,)), ("int32", ())), prefetch=tf.data.AUTOTUNE)
        dataset = dataset.map(lambda x, y: (x * 2, y), num_parallel_calls=2).shuffle(10).cache().prefetch(4)
        for _ in range(2):  # the second time from the cache
            assert sum(float(tf.reduce_sum(x[:, 0])) for x, _ in dataset) == 5000 * 4999
        assert writer.hear() == "written"
        feed.reader.close()


def test_a_look_at_the_first_batch_costs_no_chunk():
    """Keras takes a batch to build a model, gives the iterator up and begins anew."""
    with Channel.create(memory="1m") as channel:
        fill(channel, images(6400))
        feed = DataFeed(channel.reader())
        dataset = feed.dataset(64, IMAGES)
        assert len(numbers(dataset.take(1))) == 1
        gc.collect()
        left = sum(len(batch) for batch in numbers(dataset))
        assert left >= 6400 - 16 * 64
        feed.reader.close()


def test_rows_of_an_inference_are_read_in_order_and_not_ahead():
    with Channel.create(memory="1m") as channel:
        reader = channel.reader(train_mode=False)
        feed = DataFeed(reader)
        with pytest.raises(FormError, match="not shuffled"):
            feed.dataset(8, ("int64",), shuffle=10)
        with pytest.raises(ValueError, match="shuffle=-1"):
            feed.dataset(8, ("int64",), shuffle=-1)
        with pytest.raises(ValueError, match="shuffle=True: give the rows of the window"):
            feed.dataset(8, ("int64",), shuffle=True)

        def ask() -> list[Any]:
            with channel.writer() as writer:
                return [result for results in writer.exchange(range(100)) for result in results]

        thread, out = in_thread(ask)
        for batch in feed.dataset(8, tf.TensorSpec((), tf.int64)):
            feed.batch_results([int(value) + 1 for value in batch.numpy()])
        ended(thread)
        assert out == [list(range(1, 101))]
        reader.close()


def test_an_idle_feed_gives_batches_without_rows():
    with Channel.create(memory="1m", writers=0) as channel:
        feed = DataFeed(channel.reader())
        with pytest.raises(FormError, match="every dtype and shape"):
            feed._dataset(64, None, drop_remainder=False, shuffle=0, seed=None, prefetch=2, idle=0.01)
        for shuffle in (0, 100):
            dataset = feed._dataset(64, IMAGES, drop_remainder=False, shuffle=shuffle, seed=None, prefetch=2, idle=0.01)
            batches = iter(dataset)
            for _ in range(3):
                assert [part.shape[0] for part in next(batches)] == [0, 0]
            if not shuffle:
                fill(channel, images(100))
                sizes: Counter[int] = Counter()
                while sum(size * times for size, times in sizes.items()) < 64:
                    sizes[len(next(batches)[1])] += 1
                assert set(sizes) <= {0, 64}
            else:
                channel.end_feed()
                assert sorted(flat(numbers(batches))) == list(range(64, 100))
            del batches
        feed.reader.close()


def test_tensorflow_1_loops_feed_arrays_to_placeholders():
    v1 = tf.compat.v1
    with Channel.create(memory="1m", form="rows") as channel:
        fill(channel, ((np.array([i, 1.0]), 3.0 * i + 1) for i in np.linspace(0, 1, 1000)))
        feed = DataFeed(channel.reader())
        with tf.Graph().as_default(), v1.Session() as session:
            x, y = v1.placeholder(tf.float32, (None, 2)), v1.placeholder(tf.float32, (None,))
            w = v1.get_variable("w", (2,), initializer=v1.zeros_initializer())
            loss = tf.reduce_mean((tf.reduce_sum(x * w, 1) - y) ** 2)
            step = v1.train.GradientDescentOptimizer(0.3).minimize(loss)
            session.run(v1.global_variables_initializer())
            losses, rows = [], 0
            while not feed.should_stop():
                batch = feed.next_batch(64)
                rows += len(batch)
                if batch:
                    xs, ys = zip(*batch, strict=True)
                    losses.append(session.run([step, loss], {x: xs, y: ys})[1])
        assert rows == 1000
        assert losses[-1] < losses[0] / 5
        feed.reader.close()


def test_columns_without_values():
    with Channel.create(memory="1m") as channel:
        fill(channel, ((np.empty(0, np.float32), i) for i in range(200)))
        feed = DataFeed(channel.reader())
        shapes = [(tuple(nothing.shape), len(number)) for nothing, number in feed.dataset(64)]
        assert shapes == [((64, 0), 64)] * 3 + [((8, 0), 8)]
        feed.reader.close()


def test_an_iterator_goes_over_to_tensorflow_where_it_is_asked_for_more():
    """It goes on where Python left off; what TensorFlow has read ahead then stays with it."""
    with Channel.create(memory="1m") as channel:
        fill(channel, images(640))
        feed = DataFeed(channel.reader())
        dataset = feed.dataset(64, IMAGES, prefetch=0)

        @tf.function
        def first(iterator: Any) -> Any:
            return next(iterator)[1][0]

        iterator = iter(dataset)
        assert isinstance(iterator, tf.data.Iterator)
        assert iterator.element_spec == dataset.element_spec
        assert next(iterator)[1][0] == 0
        del iterator  # nothing was read ahead, and nothing is lost

        captured = iter(dataset)
        assert next(captured)[1][0] == 64

        @tf.function
        def of_captured() -> Any:
            return next(captured)[1][0]

        assert [int(of_captured()) for _ in range(2)] == [128, 192]
        assert next(captured)[1][0] == 256

        given = iter(dataset)
        assert next(given)[1][0] == 320
        assert [int(first(given)) for _ in range(2)] == [384, 448]
        assert given.get_next_as_optional().get_value()[1][0] == 512
        assert int(given.get_next()[1][0]) == 576
        with pytest.raises(StopIteration):
            next(given)
        assert not hasattr(iter(dataset), "__no_such_thing__")
        feed.reader.close()


def test_an_error_of_the_feed_comes_as_itself_into_an_eager_loop():
    with Channel.create(memory="1m", slot_bytes="16k") as channel:
        fill(channel, images(100))
        feed = DataFeed(channel.reader())
        batches = iter(feed.dataset(64, IMAGES))
        next(batches)
        feed.reader.close()
        with pytest.raises(ChannelClosed):
            list(batches)
