"""The feed inside TensorFlow: aliasing is proved by addresses, hoarding by progress, epochs by ``model.fit``."""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np
import pytest

from tests.support.helpers import broker_here, child, ended, in_thread, inside, wait_for, write_images
from tfos_fast.channel import Channel
from tfos_fast.errors import ChannelClosed, FormError, SchemaMismatch
from tfos_fast.tensors import DataFeed, alias, row_spec
from tfos_fast.values.aligned import is_aligned

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.tensorflow


def feed_of(channel: Channel) -> DataFeed:
    return DataFeed(channel.reader())


def address_of(tensor: Any) -> int:
    return np.asarray(memoryview(tensor)).ctypes.data


def fill(channel: Channel, rows: Any) -> None:
    with channel.writer() as writer:
        writer.write_rows(rows)


def test_tensors_lie_inside_the_segment_and_hold_the_slot():
    with Channel.create(memory="1m", slot_bytes="64k") as channel:
        fill(channel, (np.full(16, i, np.float32) for i in range(64)))
        feed = feed_of(channel)
        tensor = next(feed.tensors(64))
        assert tensor.shape == (64, 16)
        assert tensor.dtype == tf.float32
        seen = np.asarray(memoryview(tensor))
        assert inside(seen, feed.reader)
        assert float(tf.reduce_sum(tensor)) == 16 * 64 * 63 / 2
        del seen
        assert feed.reader.next_batch(64) is None
        time.sleep(0.2)
        assert channel.status()["slots"]["delivered"] == 1
        del tensor
        gc.collect()
        feed.reader.next_batch(64)
        wait_for(lambda: channel.status()["slots"]["delivered"] == 0)
        feed.reader.close()


def test_what_is_not_aligned_never_reaches_dlpack():
    raw = np.zeros(1024, np.uint8)
    shift = -raw.ctypes.data % 64 + 4
    with pytest.raises(ValueError, match="multiple of 64"):
        alias(raw[shift : shift + 64].view(np.float32))
    with pytest.raises(ValueError, match="multiple of 64"):
        alias(np.zeros((64, 64), np.float32)[:, :7])
    with Channel.create(memory="1m") as channel:
        fill(channel, (np.full(3, i, np.float32) for i in range(300)))
        feed = feed_of(channel)
        total = 0.0
        for tensor in feed.tensors(7):  # 84 bytes a batch: no second batch is aligned in the slot
            assert is_aligned(np.asarray(memoryview(tensor)))
            total += float(tf.reduce_sum(tensor + 0.0))
        assert total == 3 * 300 * 299 / 2
        feed.reader.close()


@pytest.mark.parametrize("keep", ["list", "variable", "shuffle", "cache"])
def test_hoarding_readers_never_deadlock(keep):
    rows = 20_000
    with Channel.create(memory="128k", slot_bytes="16k") as channel, child(write_images, channel.address, rows) as writer:
        feed = feed_of(channel)
        if keep == "list":
            kept: Any = list(feed.batches(64))
            total = sum(batch["c0"][:, 0].sum() for batch in kept)
        elif keep == "variable":
            kept = [tf.Variable(images) for images, _ in feed.tensors(64)]
            total = sum(float(tf.reduce_sum(variable[:, 0])) for variable in kept)
        else:
            dataset = feed.dataset(64, prefetch=0)
            dataset = dataset.shuffle(1000) if keep == "shuffle" else dataset.cache()
            total = sum(float(tf.reduce_sum(images[:, 0])) for images, _ in dataset)
            if keep == "cache":
                assert total == sum(float(tf.reduce_sum(images[:, 0])) for images, _ in dataset)
            kept = dataset
        assert total == rows * (rows - 1) / 2
        assert feed.reader.summary["hoarded"] > 0
        assert writer.hear() == "written"
        del kept
        gc.collect()
        feed.reader.close()


def test_dataset_batches_alias_the_slot():
    with Channel.create(memory="1m") as channel:
        fill(channel, ((np.full(16, i, np.float32), i % 10) for i in range(256)))
        feed = feed_of(channel)
        dataset = feed.dataset(64, prefetch=0)  # else small batches are cut out of a chunk, by a copy
        assert dataset.element_spec == (tf.TensorSpec((None, 16), tf.float32), tf.TensorSpec((None,), tf.int64))
        for images, _ in dataset:
            assert inside(np.asarray(memoryview(images)), feed.reader)
        assert feed.reader.summary == {"aliased": 4, "copied": 0, "hoarded": 0}
        del images, _
        feed.reader.close()


def test_each_iterator_is_the_next_epoch():
    model = tf.keras.Sequential([tf.keras.layers.Input((16,)), tf.keras.layers.Dense(10)])
    model.compile("sgd", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with Channel.create(memory="1m", writers=0) as channel:
        reader = channel.reader()
        feed = DataFeed(reader)
        with channel.writer() as writer:
            writer.write_rows((np.full(16, i / 100, np.float32), i % 10) for i in range(100))
        dataset = feed.dataset(32)
        channel.end_feed()
        history = model.fit(dataset, epochs=1, verbose=0)
        assert len(history.history["loss"]) == 1
        assert reader.summary["aliased"] == 3
        assert feed.should_stop()
        assert list(dataset) == []
        reader.close()


def test_fit_once_per_epoch_takes_every_row_of_uneven_epochs():
    model = tf.keras.Sequential([tf.keras.layers.Input((16,)), tf.keras.layers.Dense(10)])
    model.compile("sgd", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    steps = []
    count = tf.keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs=None: steps.append(epoch))
    with broker_here() as broker:
        channel = Channel.attach(broker.address)

        def write():
            for rows in (64, 192, 64):
                with channel.writer() as writer:
                    writer.write_rows((np.full(16, i / 100, np.float32), i % 10) for i in range(rows))
                broker.finish_epoch()
            broker.do(broker.end_feed)

        thread, _ = in_thread(write)
        feed = feed_of(channel)
        dataset = feed.dataset(32)
        for epoch in range(3):
            model.fit(dataset, initial_epoch=epoch, epochs=epoch + 1, verbose=0, callbacks=[count])
        assert [steps.count(epoch) for epoch in range(3)] == [2, 6, 2]
        ended(thread)  # the end of the feed comes behind that of the last epoch
        assert feed.should_stop()
        feed.reader.close()
        channel.close()


def test_structures_follow_the_rows():
    with Channel.create(memory="1m") as channel:
        fill(channel, [{"x": 1.0, "name": "a"}, {"x": 2.0, "name": "é"}])
        feed = feed_of(channel)
        (batch,) = feed.tensors(8)
        assert batch["x"].numpy().tolist() == [1.0, 2.0]
        assert batch["name"].numpy().tolist() == [b"a", "é".encode()]
        feed.reader.close()


def test_spec_casts_while_packing():
    with Channel.create(memory="1m", form=None) as channel, child(write_images, channel.address, 128) as writer:
        feed = feed_of(channel)
        dataset = feed.dataset(64, spec=(tf.TensorSpec((16,), tf.float16), tf.TensorSpec((), tf.int32)))
        dtypes = [(images.dtype, labels.dtype) for images, labels in dataset.take(2)]
        assert dtypes == [(tf.float16, tf.int32)] * 2
        assert writer.hear() == "written"
        feed.reader.close()


def test_specs_are_read():
    expected = {"c0": ("float32", (2,)), "c1": ("int64", None)}
    assert row_spec((tf.TensorSpec((2,), tf.float32), "int64")) == expected
    assert row_spec({"c0": (np.float32, (2,)), "c1": tf.int64}) == expected
    assert row_spec({"c0": np.float32, "c1": (float, 3)}) == {"c0": ("float32", None), "c1": ("float64", (3,))}
    assert row_spec(None) == {}
    with pytest.raises(FormError, match="'float32' is neither"):
        row_spec("float32")
    with pytest.raises(FormError, match="column 'x': the spec says 'float33'"):
        row_spec({"x": "float33"})


def test_objects_are_no_tensors():
    with Channel.create(memory="1m") as channel:
        fill(channel, [(1, None), (2, [1, 2, 3])])
        feed = feed_of(channel)
        with pytest.raises(SchemaMismatch, match=r"column 'c1' holds Python objects"):
            feed.dataset(2)
        with pytest.raises(SchemaMismatch, match=r"column 'c1' holds Python objects \(NoneType, list\)"):
            next(feed.tensors(2))
        feed.reader.close()


def test_empty_feed():
    with Channel.create(memory="1m") as channel:
        channel.writer().close()
        feed = feed_of(channel)
        with pytest.raises(ChannelClosed, match="without a row"):
            feed.dataset(8)
        assert list(feed.dataset(8, spec=(tf.TensorSpec((), tf.int32),))) == []
        assert feed.should_stop()
        feed.reader.close()


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16"])
def test_dtypes(dtype):
    values = np.arange(128).reshape(64, 2).astype(dtype)
    with Channel.create(memory="1m") as channel:
        fill(channel, list(values))
        feed = feed_of(channel)
        (tensor,) = feed.tensors(64)
        assert tensor.dtype == tf.as_dtype(dtype)
        assert (tensor.numpy() == values).all()
        del tensor
        feed.reader.close()


def test_poll_does_not_wait_for_long():
    with Channel.create(memory="1m") as channel:
        feed = feed_of(channel)
        assert feed.poll(64, timeout=0.05) is None
        assert not feed.should_stop()
        writer = channel.writer()
        writer.write_rows((i, float(i)) for i in range(100))
        writer.end_partition()
        writer.close()
        sizes = []
        while not feed.should_stop():
            batch = feed.poll(64, timeout=0.05)
            if batch is not None:
                sizes.append(len(batch[0]))
        assert sizes == [64, 36]
        feed.reader.close()
