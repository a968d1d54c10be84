"""Deaths in the channel, of real processes: whoever is left learns of them, and nothing stays behind."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from tests.support.helpers import child, write_forever
from tfos_fast.channel import Channel
from tfos_fast.errors import (
    AddressError,
    BrokerDied,
    ReaderDied,
    WriterDied,
)


def read_some(pipe: Any, address: str, batches: int) -> None:
    reader = Channel.attach(address).reader()
    source = reader.batches(64)
    for _ in range(batches):
        next(source)
    pipe.send("reading")
    time.sleep(600)


def test_killed_writer_gives_its_slots_back_and_another_finishes():
    with Channel.create(memory="256k", slot_bytes="16k") as channel:
        keeper = channel.writer()
        with child(write_forever, channel.address, "part") as writer, channel.reader() as reader:
            assert writer.hear() == "middle"
            source = reader.batches(64)
            seen = [next(source)["c0"].copy()]
            writer.kill()
            done = threading.Event()

            def finish() -> None:
                skip = keeper.open_partition("part", 1)
                keeper.write_rows((i, float(i)) for i in range(skip, 50_000))
                keeper.end_partition()
                keeper.close()
                done.set()

            threading.Thread(target=finish).start()
            seen += [batch["c0"].copy() for batch in source]
            assert done.wait(30)
            assert (np.concatenate(seen) == np.arange(50_000)).all()


def test_killed_writer_whom_nobody_replaces_is_an_error_for_the_reader():
    with Channel.create(memory="256k") as channel, child(write_forever, channel.address, "part-3") as writer:
        with channel.reader() as reader:
            source = reader.batches(64)
            next(source)
            writer.kill()
            with pytest.raises(WriterDied, match=rf"process {writer.process.pid} died in the middle of partition part-3"):
                for _ in source:
                    pass


def test_killed_reader_is_an_error_in_the_writers():
    with (
        Channel.create(memory="256k") as channel,
        child(write_forever, channel.address) as writer,
        child(read_some, channel.address, 3) as reader,
    ):
        assert reader.hear() == "reading"
        assert writer.hear() == "middle"
        at = time.monotonic()
        reader.kill()
        kind, text, when = writer.hear()
        assert kind == "ReaderDied"
        assert f"process {reader.process.pid}" in text
        print(f"seen after {when - at:.3f} s")
        with pytest.raises(ReaderDied):
            channel.writer()


def test_killed_broker_is_an_error_everywhere_and_leaves_nothing():
    channel = Channel.create(memory="256k")
    with child(write_forever, channel.address) as writer, channel.reader() as reader:
        next(reader.batches(64))
        assert writer.hear() == "middle"
        channel._broker.kill()
        kind, _, _ = writer.hear()
        assert kind == "BrokerDied"
        with pytest.raises(BrokerDied):
            for _ in reader.batches(64):
                pass
        with pytest.raises(AddressError, match="gone"):
            Channel.attach(channel.address)
    channel.close()


def own_and_sleep(pipe: Any) -> None:
    channel = Channel.create(memory="256k")
    pipe.send(channel.address)
    time.sleep(600)


def test_broker_ends_with_its_owner():
    with child(own_and_sleep) as owner:
        address = owner.hear()
        Channel.attach(address)
        owner.kill()
        deadline = time.monotonic() + 10
        with pytest.raises(AddressError):
            while time.monotonic() < deadline:
                Channel.attach(address)
                time.sleep(0.05)
