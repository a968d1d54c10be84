"""Pinning through a stand-in for the CUDA driver that records its calls. The real one: tests/gpu."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfos_fast.channel import Channel
from tfos_fast.channel.host.segment import Segment
from tfos_fast.tensors import DataFeed
from tfos_fast.tf import gpu as module
from tfos_fast.tf.gpu import pin

Calls = Callable[[], list[tuple[str, int, int]]]
CONTEXT = 0x1122334455667700


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("cuda") / "libcuda.so.1"
    source = Path(__file__).parents[2] / "support" / "libcuda.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(path), str(source)], check=True)
    return str(path)


@pytest.fixture
def calls(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Calls:
    log = tmp_path / "calls"
    log.touch()
    monkeypatch.setenv("TFOS_FAST_LIBCUDA", library)
    monkeypatch.setenv("TFOS_TEST_CUDA_LOG", str(log))
    monkeypatch.setenv("TFOS_TEST_CUDA_GPUS", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("TFOS_FAST_PINNED", raising=False)
    caplog.set_level(logging.INFO, logger="tfos_fast.tf.gpu")
    module._say.cache_clear()

    def read() -> list[tuple[str, int, int]]:
        lines = [line.split() for line in log.read_text().splitlines()]
        return [(name, int(address), int(number)) for name, address, number in lines]

    return read


@pytest.fixture
def segment() -> Any:
    with_slots = Segment.create("64k", "4k")
    yield with_slots
    with_slots.close()


def test_a_mapping_is_registered_for_all_contexts_and_unregistered_once(calls: Calls, segment: Segment):
    mapping = segment.mapping
    pinned = pin(mapping, ordinal=lambda: 1)
    assert pinned is not None
    registered = [
        ("cuInit", 0, 0),
        ("cuDeviceGetCount", 0, 0),
        ("cuDevicePrimaryCtxRetain", 0, 1),
        ("cuCtxPushCurrent", CONTEXT + 1, 0),
        ("cuMemHostRegister", mapping.address, mapping.size | 1),  # 1: portable
        ("cuCtxPopCurrent", 0, 0),
    ]
    assert calls() == registered
    for _ in range(2):
        pinned.close()
    assert calls()[len(registered) :] == [
        ("cuCtxPushCurrent", CONTEXT + 1, 0),
        ("cuCtxSynchronize", 0, 0),
        ("cuMemHostUnregister", mapping.address, 0),
        ("cuCtxPopCurrent", 0, 0),
        ("cuDevicePrimaryCtxRelease", 0, 1),
    ]


@pytest.mark.parametrize(
    ("variable", "value", "said", "called"),
    [
        ("TFOS_FAST_PINNED", "off", "TFOS_FAST_PINNED=off", 0),
        ("CUDA_VISIBLE_DEVICES", "", "CUDA_VISIBLE_DEVICES='' hides every GPU", 0),
        ("CUDA_VISIBLE_DEVICES", "-1", "CUDA_VISIBLE_DEVICES='-1' hides every GPU", 0),
        ("TFOS_FAST_LIBCUDA", "/nowhere/libcuda.so.1", "no CUDA driver", 0),
        ("TFOS_TEST_CUDA_GPUS", "0", "the CUDA driver finds no GPU", 2),
        ("TFOS_TEST_CUDA_FAILS", "cuInit", "cuInit failed with CUDA_ERROR_UNKNOWN (999)", 1),
        ("TFOS_TEST_CUDA_FAILS", "cuMemHostRegister", "cuMemHostRegister_v2 failed with CUDA_ERROR_UNKNOWN (999)", 7),
    ],
)
def test_off_with_one_line(
    variable: str,
    value: str,
    said: str,
    called: int,
    calls: Calls,
    segment: Segment,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setenv(variable, value)
    for _ in range(2):
        assert pin(segment.mapping) is None
    assert len(caplog.messages) == 1
    assert said in caplog.messages[0]
    names = [name for name, _, _ in calls()]
    assert len(names) == 2 * called
    assert names.count("cuDevicePrimaryCtxRetain") == names.count("cuDevicePrimaryCtxRelease")
    assert names.count("cuCtxPushCurrent") == names.count("cuCtxPopCurrent")


def test_no_gpu_of_tensorflow_and_a_bad_setting(
    calls: Calls, segment: Segment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    assert pin(segment.mapping, ordinal=lambda: None) is None
    assert "TensorFlow uses no GPU" in caplog.messages[0]
    assert calls() == []
    monkeypatch.setenv("TFOS_FAST_PINNED", "yes")
    with pytest.raises(ValueError, match="write auto or off"):
        pin(segment.mapping)


@pytest.mark.parametrize("end", ["closed", "dropped"])
def test_a_feed_pins_when_tensors_are_wanted_until_its_reader_ends(end: str, calls: Calls, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("tensorflow")
    monkeypatch.setattr("tfos_fast.tf.feed.tensorflow_gpu", lambda tf: 0)  # this machine has none
    with Channel.create(memory="64k", slot_bytes="4k") as channel:
        with channel.writer() as writer:
            writer.write_rows([(1.0,), (2.0,)])
        feed = DataFeed(channel.reader())
        assert calls() == []
        (batch,) = feed.tensors(64)
        assert batch[0].numpy().tolist() == [1.0, 2.0]
        names = [name for name, _, _ in calls()]
        assert names.count("cuMemHostRegister") == 1
        if end == "closed":
            feed.reader.close()
        del feed
        names = [name for name, _, _ in calls()]
        assert names.count("cuMemHostUnregister") == 1
