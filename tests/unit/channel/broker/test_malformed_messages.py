"""The broker and messages that no client of ours would send."""

from __future__ import annotations

import os
import random
from typing import Any

import msgspec
import pytest
import zmq

from tfos_fast.channel import Channel
from tfos_fast.channel.broker import broker as module
from tfos_fast.channel.host.processes import started
from tfos_fast.channel.host.segment import Segment
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.address import Address
from tfos_fast.errors import FormError, TfosError

HELLO = {role: m.Hello(role, os.getpid(), started(os.getpid())) for role in ("writer", "reader", "control")}  # type: ignore[arg-type]
BAD_SCHEMA = {"structure": "tuple", "columns": [{"name": "a", "kind": "fixed", "dtype": "no such"}]}


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"\xff" * 100],
        [random.Random(1).randbytes(1000)],
        [b"\x93\xa5Hello\xa6nobody"],
        [b"\x94\xa5Hello\xa6\xff\xff\xff\xff\xff\xff\x01\x01"],  # text that is no UTF-8
        [msgspec.msgpack.encode(["Hello", "writer", 1, 1])[:-1] + b"\x01" + b"\x91" * 5000],  # cut short
        [b"\x95" + msgspec.msgpack.encode(["Hello", "writer", 1, 1])[1:] + b"\x91" * 100_000],  # nesting without end
        [msgspec.msgpack.encode(["Hello", "nobody", 1, 1])],
        [msgspec.msgpack.encode(["Hello", "writer", -1, 1])],
        [msgspec.msgpack.encode(["Hello", "writer", 2**31, 1])],
        [msgspec.msgpack.encode(["Want", "input"])],
        [HELLO["writer"], HELLO["writer"]],
        [HELLO["writer"], m.Bye(rests=True), m.Want("input")],
        [HELLO["writer"], m.Bye(rests=True), m.Hello("writer", os.getppid(), started(os.getppid()))],
        [HELLO["writer"], msgspec.msgpack.encode(["Want", "neither"])],
        [HELLO["writer"], m.Want("output")],
        [HELLO["control"], m.Want("input")],
        [HELLO["writer"], m.Pin()],
        [HELLO["writer"], m.Done([0], [])],
        [HELLO["writer"], m.Done([], [0])],
        [HELLO["writer"], m.Done([], [99])],
        [HELLO["writer"], m.GiveBack(0)],
        [HELLO["writer"], m.Publish(0, 0, 1, 1, 0)],
        [HELLO["writer"], m.ClosePartition(0, 0)],
        [HELLO["writer"], m.Terminate()],
        [HELLO["writer"], msgspec.msgpack.encode(["Propose", BAD_SCHEMA])],
        [HELLO["writer"], m.OpenPartition("k", 0, False), m.OpenPartition("l", 0, False)],
        [HELLO["reader"], m.Pin()],
        [HELLO["reader"], msgspec.msgpack.encode(["Register", BAD_SCHEMA])],
        [HELLO["reader"], msgspec.msgpack.encode(["Propose", BAD_SCHEMA])],
        [HELLO["writer"], m.Welcome(3, m.Status(0, 0, 0, {}, 0, 0, False, True, False, False))],
    ],
    ids=lambda frames: "+".join(type(f).__name__ if not isinstance(f, bytes) else f"{len(f)} bytes" for f in frames),
)
def test_the_broker_survives_bad_messages_and_drops_their_sender(frames: list[Any]):
    with Channel.create(memory="64k", slot_bytes="4k", form="columns") as channel:
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(f"ipc://{Address.parse(channel.address).socket}")
        for frame in frames:
            socket.send(frame if isinstance(frame, bytes) else m.encode(frame))
        last: Any = None
        while not isinstance(last, m.Failed):
            assert socket.poll(10_000), f"no answer, only {last}"
            last = m.decode_answer(socket.recv())
        assert last.kind == "ChannelError"
        assert "protocol error" in last.text
        status = channel.status()
        assert status["writers"] == 0
        assert not status["reader"]
        assert status["slots"]["free"] == 16
        context.destroy(linger=0)


def test_a_proposal_before_any_form():
    with Channel.create(memory="64k", slot_bytes="4k", form=None) as channel, channel.writer() as writer:
        writer._conn.send(m.Propose(m.Schema("tuple", ())))
        with pytest.raises(TfosError, match="protocol error"):
            writer._conn.wait(lambda: None, "an answer", timeout=5)
        assert channel.status()["writers"] == 0


def test_a_spec_that_names_no_type():
    with Channel.create(memory="64k", slot_bytes="4k", form=None) as channel, channel.reader() as reader:
        with pytest.raises(FormError, match="which is no type of a column"):
            reader.next_batch(1, spec={"x": ("(2,", None)})
        assert channel.status()["reader"] is False


def test_a_broker_that_cannot_bind_leaves_nothing(tmp_path, monkeypatch):
    """Its context was left to the garbage collector, which waited for the socket for ever where it came by the registry first."""
    folder = tmp_path / ("x" * 120)  # longer than the path of a socket may be
    folder.mkdir()
    monkeypatch.setattr(module, "make_runtime_directory", lambda: folder)
    segment = Segment.create("64k", "4k")
    with pytest.raises(zmq.ZMQError):
        module.Broker(segment)
    segment.close()
    assert not folder.exists()
