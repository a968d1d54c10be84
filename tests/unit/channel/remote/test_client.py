"""Writers that reach a broker over TCP: they do what local ones do."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import pickle
import re
import signal
import socket
import struct
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from tests.support.helpers import broker_here, child, ended, free, gateway, in_thread, wait_for
from tests.support.remote_clients import RemoteWriter, client, hear, remote
from tfos_fast.channel import Channel
from tfos_fast.channel.codec.layout import layout
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.remote import wire
from tfos_fast.channel.remote.client import RemoteAddress
from tfos_fast.channel.schema.columns import Column, Schema
from tfos_fast.channel.untrusted.vetting import vet
from tfos_fast.cluster.protocol.keys import ClusterKeys
from tfos_fast.cluster.tasks.feed import Feeder
from tfos_fast.errors import (
    AddressError,
    BrokerDied,
    Fenced,
    NodeFailed,
    RowTooLarge,
    SchemaMismatch,
    StallTimeout,
)


def test_a_row_that_cannot_be_fed_fails_its_task_where_nobody_can_be_told():
    feeder = Feeder((), ClusterKeys("", b"", b"", b""), "feed1/0", 1.0)
    with remote(memory="1m", slot_bytes="64k") as (channel, far):
        for one in (channel, far):
            with pytest.raises(SchemaMismatch, match="row 0: no"):
                feeder._unfit(one, 0, SchemaMismatch("row 0: no"))
            assert one.status()["writers"] == 0  # the gateway goes on with this task


def test_rows_and_batches_of_every_kind_come_as_they_were_written():
    rows = [(i, float(i), f"text {i}", bytes([i % 256]) * (i % 50), [i, i + 1], np.full(7, i, np.float32)) for i in range(5000)]
    with remote(memory="1m", slot_bytes="64k", form="rows") as (channel, far):

        def write() -> None:
            with far.writer() as writer:
                assert writer.write_rows(iter(rows)) == len(rows)

        thread, out = in_thread(write)
        with channel.reader() as reader:
            seen: list[Any] = []
            while not reader.ended:
                seen += reader.next_rows(300)
        ended(thread)
        assert out == [None]
    assert len(seen) == len(rows)
    for before, after in zip(rows, seen, strict=True):
        assert before[:5] == after[:5]
        assert (before[5] == after[5]).all()


def test_columns_with_lists_nulls_and_text_in_arrow_batches():
    batch = pa.RecordBatch.from_pydict(
        {"x": pa.array(range(3000), pa.float32()), "y": [[i] * (i % 5) for i in range(3000)], "z": [str(i) for i in range(3000)]}
    )
    with remote(memory="512k", slot_bytes="32k") as (channel, far):
        thread, out = in_thread(lambda: write_batches(far, [batch] * 3))
        with channel.reader() as reader:
            x, y, z = [], [], []
            for part in reader.batches(100):
                x += part["x"].tolist()
                y += part["y"].tolist()
                z += part["z"].tolist()
        ended(thread)
        assert out == [None]
    assert x == batch["x"].to_pylist() * 3
    assert y == batch["y"].to_pylist() * 3
    assert z == batch["z"].to_pylist() * 3


def write_batches(channel: Channel, batches: list[Any]) -> None:
    with channel.writer() as writer:
        for batch in batches:
            writer.write_batch(batch)


def test_results_come_back():
    with remote(memory="256k", slot_bytes="8k", form="rows") as (channel, far):

        def serve() -> None:
            with channel.reader(train_mode=False) as reader:
                while not reader.ended:
                    reader.write_results([("r", row, None) for row in reader.next_rows(33)])

        server, served = in_thread(serve)
        with far.writer() as writer:
            results = [result for some in writer.exchange(iter(range(10_000))) for result in some]
        ended(server)
        assert served == [None]
        assert results == [("r", i, None) for i in range(10_000)]


def test_two_remote_writers_and_a_local_one():
    with remote(memory="256k", slot_bytes="8k", form="rows", writers=3) as (channel, far):

        def write(to: Channel, first: int) -> None:
            with to.writer() as writer:
                writer.write_rows(iter(range(first, first + 2000)))

        threads = [
            in_thread(lambda to=to, first=first: write(to, first)) for to, first in [(far, 0), (far, 10_000), (channel, 20_000)]
        ]
        with channel.reader() as reader:
            seen = []
            while not reader.ended:
                seen += reader.next_rows(64)
        for thread, out in threads:
            ended(thread)
            assert out == [None]
        for first in (0, 10_000, 20_000):
            assert [row for row in seen if first <= row < first + 10_000] == list(range(first, first + 2000))


def test_a_writer_waits_for_slots_and_its_own_are_free_when_it_is_killed():
    with remote(memory="64k", slot_bytes="4k", form="columns", writers=0) as (channel, far):
        with child(write_forever, far.address) as writer:
            assert writer.hear() == "middle"
            reader = channel.reader()
            next(reader.batches(16))
            assert channel.status()["writers"] == 1
            writer.kill()
            wait_for(lambda: channel.status()["writers"] == 0)
            assert channel.status()["slots"]["granted"] == 0
        reader.close()


def write_forever(pipe: Any, address: RemoteAddress) -> None:
    writer = Channel.attach(address).writer()
    writer.open_partition("k", 0)

    def rows() -> Any:
        for i in range(10**9):
            if i == 500:
                pipe.send("middle")
            yield (i, float(i))

    try:
        writer.write_rows(rows())
    except Exception as error:
        pipe.send((type(error).__name__, str(error)))


def test_a_new_attempt_skips_what_came_and_fences_the_old_one():
    with remote(memory="256k", slot_bytes="4k", form="rows", writers=0) as (channel, far), channel.reader() as reader:
        old = far.writer()
        assert old.open_partition("p", 0) == 0
        old.write_rows(iter(range(3000)))
        seen = reader.next_rows(100)
        new = far.writer()
        skip = new.open_partition("p", 1)
        assert 0 < skip < 3000
        with pytest.raises(Fenced, match="attempt 0 at partition p was replaced by attempt 1"):
            wait_for(lambda: old.write_rows([1]) == 0)  # until it has heard of it
        old.close()
        new.write_rows(iter(range(skip, 3000)))
        new.end_partition()
        while len(seen) < 3000:
            seen += reader.next_rows(100)
        new.close(wait=True)
        assert seen == list(range(3000))


def test_errors_keep_their_types_and_texts():
    with remote(memory="64k", slot_bytes="4k", writers=0) as (_, far):
        writer = far.writer()
        with pytest.raises(RowTooLarge, match="a slot has 4096"):
            writer.write_rows([(np.zeros(10_000),)])
        writer.close()
    with remote(memory="64k", slot_bytes="4k", writers=0) as (channel, far):
        reader = channel.reader()
        writer = far.writer()
        writer.write_rows([(1,)] * 600)
        next(reader.batches(4))
        with pytest.raises(SchemaMismatch, match=r"partition .*column 'c0'"):
            writer.write_rows([("text",)])
        writer.close()
        with pytest.raises(AddressError, match="on another host"):
            far.reader()
        stalled = far.writer(stall_timeout=0.3)
        with pytest.raises(StallTimeout, match=r"nothing moved for .* waited for a free slot"):
            stalled.write_rows((i,) for i in range(100_000))
        stalled.close()
        reader.close()


def test_a_failure_of_the_node_comes_with_its_traceback():
    with broker_here() as broker, gateway(broker.address) as address, Channel.attach(address) as far:
        writer = far.writer()
        broker.do(lambda: broker.fail(m.Failed("NodeFailed", "main raised ValueError: no", "worker:0", "host", "Traceback: no")))
        with pytest.raises(NodeFailed, match="main raised ValueError: no") as caught:
            writer.write_rows([1])
        assert (caught.value.node, caught.value.remote_traceback) == ("worker:0", "Traceback: no")
        writer.close()
        with pytest.raises(NodeFailed, match="no"):
            far.writer()


def test_what_a_closed_writer_has_written_is_at_the_broker():
    with remote(memory="16m", slot_bytes="1m", form="columns", writers=0) as (channel, far):
        writer = far.writer()
        writer.write_rows([(np.ones(1 << 16),)] * 20)
        writer.end_partition()
        writer.close()
        assert channel.status()["rows_published"] == 20


class Own:
    """A class of the program's."""


def test_objects_that_hold_data_pass_and_others_are_refused():
    good = [{"a": None}, {"a": {1, 2}}, {"a": datetime.date(2020, 1, 2)}, {"a": [np.arange(3), "x"]}, {"a": 10**30}]
    with remote(memory="64k", slot_bytes="4k", form="rows", writers=0) as (channel, far), channel.reader() as reader:
        with far.writer() as writer:
            writer.write_rows(good)
        seen = []
        while len(seen) < len(good):
            seen += reader.next_rows(1)
        assert repr(seen) == repr(good)
        writer = far.writer()
        with pytest.raises(SchemaMismatch, match=r"made by tests\.unit\.channel\.remote\.test_client\.Own"):
            writer.write_rows([Own()])
            writer.end_partition()
            writer.close(wait=True)
        assert channel.status()["rows_published"] == len(good)


def test_a_broker_that_dies_and_one_that_is_gone():
    with remote(memory="64k", slot_bytes="4k", form="rows", writers=0) as (channel, far):
        writer = far.writer()
        writer.write_rows([1, 2])
        channel._broker.kill()
        with pytest.raises(BrokerDied, match=r"the connection to the node at 127\.0\.0\.1:\d+ broke"):
            writer.write_rows(iter(int, 1))
        writer.close()
        with pytest.raises(AddressError, match="no connection to the node"):
            far.writer()


# ---- strangers, and clients that misbehave --------------------------------------------------------------------------------------


def test_who_has_no_key_gets_nothing():
    with remote(memory="64k", slot_bytes="4k", form="rows", writers=0) as (channel, far):
        host, _, port = far.address.endpoint.rpartition(":")
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(b"GET / HTTP/1.0\r\n\r\n" + bytes(200))
            raw.settimeout(20)
            heard = b""
            with contextlib.suppress(ConnectionResetError):  # it has not read all that was sent
                while some := raw.recv(1000):
                    heard += some
            assert len(heard) <= 64  # ZeroMQ's greeting
        stranger = zmq.curve_keypair()
        with client(far.address, stranger) as dealer:
            dealer.send(m.encode(wire.Attach("")))
            with pytest.raises(AddressError, match=r"no connection to|refused the keys"):
                Channel.attach(dataclasses.replace(far.address, client_public=stranger[0], client_secret=stranger[1])).writer()
            assert not dealer.poll(500)
        wrong = dataclasses.replace(far.address, server_public=zmq.curve_keypair()[0])
        with pytest.raises(AddressError, match="no connection to"):
            Channel.attach(wrong).writer()
        assert channel.status()["writers"] == 0
        with far.writer() as writer:
            writer.write_rows([1])


PAYLOAD = [m.encode([0]), b"12345678"]


SAID = [
    [b"\xc1 not msgpack"],
    [b""],
    [b"\x92\xa3Bye" + b"\x91" * 100_000],
    [b"\x92\xa6Attach\xa1\xff"],
    [m.encode(m.OpenReader(m.Form("rows"), True))],
    [m.encode(m.Control("start", b""))],
    [m.encode(m.Hello("reader", 1, 1))],
    [m.encode(m.Want("input")), b"payload"],
    [m.encode(m.Publish(0, 0, 1, 1, 0)), *PAYLOAD],  # nothing was granted
    [m.encode(m.Publish(10**9, 0, 1, 1, 0)), *PAYLOAD],
]


def test_what_a_client_must_not_say_ends_it():
    with remote(memory="64k", slot_bytes="4k", form="rows", writers=0) as (channel, far):
        for frames in SAID:
            with client(far.address) as dealer:
                dealer.send(m.encode(wire.Attach("")))
                assert isinstance(hear(dealer), wire.Attached)
                dealer.send_multipart(frames)
                answer = hear(dealer)
                assert isinstance(answer, m.Failed), frames
                assert "protocol error" in answer.text
            assert channel.status()["writers"] == 0
        with far.writer() as writer:  # the others never notice
            writer.write_rows([1])


def test_what_waits_for_a_broker_that_is_stopped_is_bounded():
    """A client that says more than its slots and questions allow is dropped; the others go on when the broker does."""
    with remote(memory="64k", slot_bytes="4k", form="rows", writers=0) as (channel, far), far.writer() as writer:
        with client(far.address) as dealer:
            for message in (wire.Attach(""), m.Hello("control", 1, 1)):
                dealer.send(m.encode(message))
            hear(dealer), hear(dealer)
            os.kill(channel._broker.pid, signal.SIGSTOP)
            try:
                for _ in range(100_000):
                    dealer.send(m.encode(m.AskStatus()))
                answer = hear(dealer)
            finally:
                os.kill(channel._broker.pid, signal.SIGCONT)
            assert isinstance(answer, m.Failed)
            assert "more messages than the broker can take" in answer.text
        assert writer.write_rows([1, 2]) == 2


@pytest.mark.parametrize(
    "messages",
    [[m.Propose(Schema("bare", (Column("c0", "fixed", "int64", (), "int"),)))] * 2, [m.Done([0] * 33, [])]],
    ids=["proposals", "slots"],
)
def test_messages_that_may_be_large_are_few(messages):
    with remote(memory="64k", slot_bytes="4k", form="rows", writers=0) as (channel, far), client(far.address) as dealer:
        for message in (wire.Attach(""), m.Hello("writer", 1, 1), m.OpenPartition("", 0, False)):
            dealer.send(m.encode(message))
        hear(dealer), hear(dealer), hear(dealer)
        os.kill(channel._broker.pid, signal.SIGSTOP)
        try:
            for message in messages:
                dealer.send(m.encode(message))
            answer = hear(dealer)
        finally:
            os.kill(channel._broker.pid, signal.SIGCONT)
        assert isinstance(answer, m.Failed)
        assert re.search("second proposal before the answer|more slots than there are", answer.text)


def test_a_payload_never_reaches_out_of_its_slot():
    schema = Schema("bare", (Column("c0", "fixed", "int64", (), "int"),))
    with remote(memory="64k", slot_bytes="4k", form="rows", writers=0) as (channel, far):
        for payload in (
            [],
            [b"\xc1"],
            [m.encode([4095]), b"xx"],
            [m.encode([0, 8]), b"one"],
            [m.encode([-1]), b"x"],
            [m.encode([2**62]), b"x"],
        ):
            with client(far.address) as dealer:
                RemoteWriter(dealer).send_slot(schema, 1, 8, payload)
                answer = hear(dealer)
                assert isinstance(answer, m.Failed), payload
            wait_for(lambda: free(channel) == 16)
        assert channel.status()["rows_published"] == 0


def test_an_object_that_would_call_something_is_never_loaded(tmp_path):
    schema = Schema("bare", (Column("c0", "object"),))
    where = layout(schema, 4, 4096)
    for evil in (
        b"cos\nsystem\n(S'touch %s'\ntR." % str(tmp_path / "x").encode(),
        pickle.dumps(Own()),
        pickle.dumps(print),
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
        b"garbage",
    ):
        slot = bytearray(4096)
        struct.pack_into("<II", slot, 0, where.heap, len(evil))
        slot[where.heap : where.heap + len(evil)] = evil
        with pytest.raises(SchemaMismatch):
            vet(where, slot, 1)
    assert not (tmp_path / "x").exists()


@given(
    st.integers(1, 60),
    st.lists(st.sampled_from(["fixed", "string", "bytes", "null"]), min_size=1, max_size=5),
    st.integers(0, 60),
    st.integers(0, 2**32),
)
def test_extents_hold_every_byte_that_the_rows_use(capacity, kinds, rows, seed):
    random = Random(seed)
    rows = min(rows, capacity)
    fixed = ("int64", (3,))
    columns = tuple(Column(f"c{i}", kind, *(fixed if kind == "fixed" else ())) for i, kind in enumerate(kinds))
    where = layout(Schema("tuple", columns), capacity, 64 << 10)
    slot, used, top = bytearray(random.randbytes(where.slot_bytes)), set(), where.heap
    for offset, column in zip(where.offsets, columns, strict=True):
        used |= set(range(offset, offset + rows * column.row_bytes))
    for row in range(rows):
        for offset, column in zip(where.offsets, columns, strict=True):
            if column.in_heap:
                length = random.randrange(300)
                struct.pack_into("<II", slot, offset + 8 * row, top, length)
                used |= set(range(top, top + length))
                top += length
    parts = wire.extents(where, slot, rows)
    covered = set()
    for start, length in parts:
        assert length > 0
        assert not covered & set(range(start, start + length))
        covered |= set(range(start, start + length))
    assert used <= covered
    assert not covered or max(covered) < where.slot_bytes
    copy = bytearray(where.slot_bytes)
    _, *payload = wire.frames(m.Publish(0, 0, rows, capacity, 0), parts, slot)
    wire.unpack(payload, copy, where.slot_bytes)
    assert all(copy[at] == slot[at] for at in used)
