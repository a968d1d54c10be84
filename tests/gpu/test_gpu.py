"""On a real GPU (``make test-gpu``): the segment is pinned, and what lies in it reaches the device. Skipped where there is none."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from tfos_fast.channel import Channel
from tfos_fast.tensors import DataFeed
from tfos_fast.tf.gpu import tensorflow_gpu

tf = pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def cuda() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        pytest.skip(f"no CUDA driver here: {error}")
    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow finds no GPU (is tensorflow[and-cuda] installed?)")
    return library


def is_pinned(cuda: ctypes.CDLL, address: int) -> bool:
    return cuda.cuMemHostGetFlags(ctypes.byref(ctypes.c_uint()), ctypes.c_void_p(address)) == 0


def test_slots_are_pinned_and_batches_reach_the_gpu(cuda: ctypes.CDLL) -> None:
    assert tensorflow_gpu(tf) is not None
    images = np.arange(4096 * 256, dtype=np.float32).reshape(4096, 256)
    with Channel.create(memory="64m") as channel:
        with channel.writer() as writer:
            writer.write_rows(iter(images))
        feed = DataFeed(channel.reader())
        mapping = feed.reader.segment.mapping
        at = 0
        for batch in feed.tensors(256):
            assert is_pinned(cuda, mapping.address)
            assert is_pinned(cuda, mapping.address + mapping.size - 1)
            with tf.device("GPU:0"):
                there = tf.identity(batch)
            assert "GPU:0" in there.device
            np.testing.assert_array_equal(there.numpy(), images[at : at + 256])
            at += 256
        assert at == len(images)
        address = mapping.address
        del batch, there
        feed.reader.close()
        assert not is_pinned(cuda, address)
        assert tf.reduce_sum(tf.ones(10)).numpy() == 10  # TensorFlow's own context is as it was
