"""Slots that came over a network and that no writer of ours would fill: their sender ends, and nobody else."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import attack
from tests.support.helpers import gateway, wait_for
from tests.support.remote_clients import RemoteWriter, client, hear, remote
from tfos_fast.channel import Channel
from tfos_fast.channel.broker import schema_agreement
from tfos_fast.channel.broker.feed import Feed
from tfos_fast.channel.broker.slot_table import TableError
from tfos_fast.channel.codec import decode as decoder
from tfos_fast.channel.codec.layout import MAX_FREE, MAX_ROWS, layout, plan
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.address import Address
from tfos_fast.channel.remote import wire
from tfos_fast.channel.remote.check_slot import _covered, check_schema, check_slot
from tfos_fast.channel.remote.client import Buffers, RemoteAddress
from tfos_fast.channel.remote.gateway import Client, Gateway, GatewayConfig
from tfos_fast.channel.schema.columns import Column, Schema
from tfos_fast.channel.schema.kinds import check_mode
from tfos_fast.errors import RowTooLarge, SchemaMismatch

SIZE = 4096


@contextmanager
def hostile(form: str):
    with remote(memory="64k", slot_bytes="4k", form=form, writers=0) as (channel, far), client(far.address) as dealer:
        yield channel, far, RemoteWriter(dealer)


def one(kind: str, dtype: str = "", shape: tuple[int, ...] = (), python: str = "") -> Schema:
    return Schema("bare", (Column("c0", kind, dtype, shape, python),))  # type: ignore[arg-type]


def filled(schema: Schema, values: list[bytes], capacity: int) -> list[tuple[int, bytes]]:
    """A slot of one column in the heap, as it is sent."""
    where = layout(schema, capacity, SIZE)
    entries, at = b"", where.heap
    for value in values:
        entries += struct.pack("<II", at, len(value))
        at += len(value)
    return [(0, entries), (where.heap, b"".join(values))]


DAMAGED = [
    ("rows", one("string"), [b"good", b"\xff\xfe"], "SchemaMismatch", "'c0': text that is not UTF-8"),
    ("columns", one("string"), [b"\xed\xa0\x80"], "SchemaMismatch", "'c0': text that is not UTF-8"),
    ("columns", one("ragged", "string", (-1,)), [struct.pack("<II", 1, 2) + b"\xc3("], "SchemaMismatch", "not UTF-8"),
    ("columns", one("ragged", "string", (-1,)), [struct.pack("<II", 1, 9) + b"a"], "ChannelError", "slot is damaged"),
    ("columns", one("ragged", "int64", (-1,)), [b"7 bytes"], "ChannelError", "'c0'"),
    ("columns", one("ragged", "int64", (-1, -1)), [struct.pack("<I", 2**31)], "ChannelError", "slot is damaged"),
    ("columns", one("ragged", "bytes", (-1, -1)), [b""], "ChannelError", "slot is damaged"),
]


@pytest.mark.parametrize(("form", "schema", "values", "kind", "text"), DAMAGED)
def test_text_and_lists_that_are_damaged_end_their_writer(form, schema, values, kind, text):
    with hostile(form) as (channel, far, writer):
        answer = writer.publish(schema, len(values), 8, filled(schema, values, 8))
        assert isinstance(answer, m.Failed)
        assert answer.kind == kind
        assert text in answer.text
        wait_for(lambda: channel.status()["writers"] == 0)
        assert channel.status()["rows_published"] == 0
        if form == "rows":
            with far.writer() as other:  # the feed goes on
                other.write_rows(["good"])
            with channel.reader() as reader:
                assert reader.next_rows(1) == ["good"]


def test_a_slots_older_rows_are_nobody_elses():
    """Of a slot that others have used before, its rows show only what was sent with them."""
    numbers, text = one("fixed", "int64", (), "int"), one("bytes")
    where = layout(text, 8, SIZE)
    for schema, parts in (
        (numbers, []),
        (numbers, [(0, bytes(8))]),  # two rows take sixteen bytes
        (numbers, [(8, bytes(8))]),
        (text, [(0, struct.pack("<IIII", where.heap, 100, where.heap + 100, 100))]),
        (text, [(0, struct.pack("<IIII", where.heap, 100, where.heap + 100, 100)), (where.heap, bytes(199))]),
        (text, [(0, struct.pack("<IIII", 16, 8, 24, 8))]),  # not in the heap
    ):
        with hostile("rows") as (channel, _, writer):
            answer = writer.publish(schema, 2, 8, parts)
            assert isinstance(answer, m.Failed), parts
            assert "not sent with it" in answer.text or "outside of it" in answer.text
            assert channel.status()["rows_published"] == 0


@pytest.mark.parametrize("kind", ["string", "bytes", "object"])
def test_one_value_is_not_many(kind):
    """A million rows of one value would take a million times its bytes in the trainer."""
    schema = one(kind)
    where = layout(schema, 100, SIZE)
    parts = [(0, struct.pack("<II", where.heap, 1000) * 100), (where.heap, b"x" * 1000)]
    with hostile("rows") as (channel, _, writer):
        answer = writer.publish(schema, 100, 100, parts)
        assert isinstance(answer, m.Failed)
        assert "upon each other" in answer.text
        assert channel.status()["rows_published"] == 0


def test_lists_are_not_made_out_of_nothing():
    with hostile("rows") as (_, _, writer):
        answer = writer.propose(one("fixed", "int64", (2**31, 0), "list/list/int"))
        assert isinstance(answer, m.Failed)
        assert "lists without a number" in answer.text
    check_schema(one("fixed", "int64", (3, 0), "list/list/int"))
    check_schema(one("fixed", "int64", (0, 2**31), "list/list/int"))
    check_schema(one("fixed", "int64", (2**31, 0), "ndarray"))
    with pytest.raises(SchemaMismatch):
        check_schema(one("fixed", "int64", (1000, 1000, 0), "list/list/list/int"))
    columns = [Column(f"c{i}", "fixed", "int64", (1000, 0), "list/list/int") for i in range(5)]
    check_schema(Schema("tuple", tuple(columns[:4])))
    with pytest.raises(SchemaMismatch, match="'c4': 5005 lists"):
        check_schema(Schema("tuple", tuple(columns)))


MANY_NULLS = Schema("tuple", tuple(Column(f"c{i}", "null") for i in range(1000)))


@pytest.mark.parametrize(
    "schema", [MANY_NULLS, one("fixed", "int64", (100, 0), "list/list/int"), one("fixed", "int64", (0,), "ndarray"), one("null")]
)
def test_values_without_bytes_take_a_bounded_memory(schema):
    """Of a slot, whatever its writer says; and no writer of ours plans more rows."""
    planned = plan(schema, SIZE, batch=1, heap_per_row=0.0).capacity
    with hostile("rows") as (channel, _, writer):
        assert isinstance(writer.publish(schema, planned, planned, []), m.Status)
        assert channel.status()["rows_published"] == planned
    if planned == MAX_ROWS:
        return
    with hostile("rows") as (_, _, writer):
        answer = writer.publish(schema, planned + 1, planned + 1, [])
        assert isinstance(answer, m.Failed)
        assert "values without a byte" in answer.text


def test_a_reader_makes_few_rows_at_a_time():
    rows = plan(MANY_NULLS, SIZE, batch=1, heap_per_row=0.0).capacity
    with hostile("rows") as (channel, _, writer):
        writer.publish(MANY_NULLS, rows, rows, [])
        with channel.reader() as reader:
            tracemalloc.start()
            assert reader.next_rows(1) == [(None,) * 1000]
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            reader.terminate()
    assert most < 16 << 20 < MAX_FREE


@pytest.mark.parametrize("depth", [2, 16, 60])
def test_lists_that_are_empty_cost_nothing_for_each_level(depth):
    rows = [struct.pack("<I", 0)] * 300
    schema = one("ragged", "int8", (-1,) * depth)
    where, slot = layout(schema, len(rows), SIZE), bytearray(SIZE)
    for offset, data in filled(schema, rows, len(rows)):
        slot[offset : offset + len(data)] = data
    tracemalloc.start()
    check_slot(where, slot, len(rows), [(0, SIZE)])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 64 * 12 * len(rows) + (1 << 17)
    found = decoder.columns(where, slot, 0, len(rows))["c0"]
    assert len(found) == len(rows)
    assert len(found.values) == 0


def test_names_have_few_dots():
    """Of each dot the broker makes the name of a struct: of 4 MiB of them there are terabytes."""
    check_schema(Schema("dict", (Column("a" + ".b" * 256, "null"),)))
    with hostile("columns") as (_, _, writer):
        answer = writer.propose(Schema("dict", (Column("." * 1_000_000, "fixed", "int8"),)))
        assert isinstance(answer, m.Failed)
        assert "dots" in answer.text


@pytest.mark.timeout(60)
@pytest.mark.parametrize("tensors", [False, True])
def test_many_columns_are_agreed_on_in_linear_time(tensors):
    """The agent does nothing else meanwhile: of structs that were None at first, eight thousand took it a minute."""
    feed = Feed(8, form=m.Form("columns", batch=4, tensors=tensors))
    feed.hello(b"w", m.Hello("writer", 1, 1))
    feed.handle(b"w", m.OpenPartition("k/0", 0, False))
    names = [f"s{i}" for i in range(16_000)]
    nothing = Schema("dict", tuple(Column(name, "null", nulls="seen") for name in names))
    structs = Schema("dict", tuple(Column(f"{name}.a", "fixed", "int32") for name in names), tuple(sorted(names)))
    for schema in (structs, structs) if tensors else (nothing, structs):
        feed.handle(b"w", m.Propose(schema))
        assert isinstance(feed.outbox[-1][1], m.Agreed)
    assert len(feed.outbox[-1][1].schema.columns) == len(names)


def test_messages_that_wait_for_no_answer_end_their_writer():
    """They would wait in the gateway's memory for the broker."""
    schema = one("fixed", "int64", (), "int")
    for messages, text in (
        ([m.Propose(schema)] * 2, "a second proposal"),
        ([m.Done([], [0] * 17)], "more slots than there are"),
        ([m.OpenPartition("a\x1b[2J\n", 0, False)], "control characters"),
    ):
        with hostile("rows") as (channel, _, writer):
            for message in messages:
                writer.dealer.send(m.encode(message))
            answers = [hear(writer.dealer)]
            while not isinstance(answers[-1], m.Failed):
                answers.append(hear(writer.dealer))
            assert text in answers[-1].text
            wait_for(lambda channel=channel: channel.status()["writers"] == 0)


def test_a_broker_that_does_not_listen_fills_no_gateway():
    with Channel.create(memory="64k", slot_bytes="4k", form="rows", writers=0) as channel, gateway(channel.address) as address:
        with client(address) as dealer:
            writer = RemoteWriter(dealer)
            os.kill(pid := Address.parse(channel.address).pid, signal.SIGSTOP)
            try:
                for _ in range(20_000):
                    dealer.send(m.encode(m.OpenPartition("k" * 1000, 0, False)))
                assert "more messages than the broker can take" in hear(writer.dealer).text
            finally:
                os.kill(pid, signal.SIGCONT)
            wait_for(lambda: channel.status()["writers"] == 0)


def test_a_gateway_that_is_filled_ends():
    """One message of many parts: ZeroMQ keeps them until the last one has come."""
    server, keys = zmq.curve_keypair(), zmq.curve_keypair()
    program = "from tfos_fast.channel.remote import gateway; gateway._MOST_MEMORY = 1 << 27; gateway.main()"
    with Channel.create(memory="64k", slot_bytes="4k", form="rows") as channel:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            process = subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[listener.fileno()]
            )
            config = GatewayConfig(channel.address, listener.fileno(), server[1].decode(), keys[0].decode())
            endpoint = f"127.0.0.1:{listener.getsockname()[1]}"
        try:
            process.stdin.write(msgspec.json.encode(config))
            process.stdin.close()
            with client(RemoteAddress(endpoint, server[0], *keys)) as dealer:
                dealer.send_multipart([m.encode(m.AskStatus()), *[memoryview(bytes(1 << 20))] * 2000], copy=False)
                assert process.wait(60) == 0
            assert b"what remote writers sent fills" in process.stderr.read()
        finally:
            process.kill()
            process.stderr.close()


@pytest.mark.parametrize("rows", [MAX_ROWS + 1, 2**32, 2**62])
def test_rows_without_bytes_are_not_without_end(rows):
    """A slot of nothing but None: its reader would make a list of all its rows, and the broker's counters would overflow."""
    with hostile("rows") as (channel, far, writer):
        answer = writer.publish(one("null"), rows, rows, [])
        assert isinstance(answer, m.Failed)
        assert "protocol error" in answer.text
        with far.writer() as other:
            other.write_rows([None])
        assert channel.status()["rows_published"] == 1


def test_a_slot_of_many_frames_is_no_slot():
    with hostile("rows") as (_, _, writer):
        answer = writer.publish(one("fixed", "int64", (), "int"), 1, 1, [(i % 8, b"x") for i in range(100)])
        assert isinstance(answer, m.Failed)
        assert "100 frames" in answer.text


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9))), st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9))))
def test_covered_is_what_lies_in_what_was_sent(parts, sent):
    there = {at for start, length in sent for at in range(start, start + length)}
    assert _covered(parts, sent) == all(set(range(start, start + length)) <= there for start, length in parts)


# ---- memory of the agent and the gateway ---------------------------------------------------------------------------------------


def named(i: int, length: int = 0) -> Schema:
    return Schema("tuple", (Column(f"{i}".rjust(length, "x"), "null"),))


def test_a_writer_does_not_propose_columns_without_end():
    """The agent keeps each set of columns as long as the feed lasts: names of a megabyte, or very many."""
    with hostile("rows") as (channel, far, writer):
        answers = [writer.propose(named(i % 3, 1 << 20)) for i in range(12)]  # the same ones again cost nothing
        assert all(isinstance(answer, m.Agreed) for answer in answers)
        answer = writer.propose(named(3, 1 << 20))
        assert (answer.kind, type(answer)) == ("SchemaMismatch", m.Failed)
        assert "this writer has had so many different columns that they take 16 MiB" in answer.text
        wait_for(lambda: channel.status()["writers"] == 0)
        with far.writer() as other:
            other.write_rows([(1, "a")])


def test_a_feed_does_not_keep_columns_without_end(monkeypatch):
    monkeypatch.setattr(schema_agreement, "MOST_MEMORY", 100_000)
    schemas, form = schema_agreement.Agreement(), m.Form("rows")
    for _ in range(2):
        with pytest.raises(SchemaMismatch, match="this feed has had so many different columns"):
            for i in range(1000):
                schemas.propose(named(i), form)
        assert len(schemas) == 110
    assert schemas.propose(named(7), form) == (7, named(7))  # known ones go on


@pytest.mark.parametrize("error", [zmq.Again(), zmq.ZMQError(zmq.EHOSTUNREACH)])
def test_a_client_that_does_not_read_is_dropped(error):
    dropped = []
    gateway = Gateway.__new__(Gateway)
    gateway._socket, gateway._drop = Raises(error), dropped.append  # type: ignore[assignment,method-assign]
    gateway._send(b"peer", [b"frame"])
    assert dropped == [b"peer"]


class Raises:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def send_multipart(self, *_: Any, **__: Any) -> None:
        raise self.error


@pytest.mark.parametrize(
    "said",
    [
        m.Deliver(0, 0, 1, 2**20, 0, one("fixed", "int64", (), "int")),  # more than a slot has room for
        m.Deliver(0, 0, 1, 1, 0, Schema("bare", (Column("c0", "fixed", "int64", (2**31,), "list/int"),))),
    ],
)
def test_results_that_are_no_slot_end_their_writer_and_not_the_gateway(said):
    sent: list[Any] = []
    dropped = []
    gateway = Gateway.__new__(Gateway)
    there = Client.__new__(Client)
    there.segment, there._schemas = Buffers(SIZE, 4), {}  # type: ignore[assignment]
    link = Says([m.encode(said)])
    gateway._links, gateway._clients = {link: b"peer"}, {b"peer": there}
    gateway._send = lambda peer, frames: sent.extend(frames)  # type: ignore[method-assign]

    def drop(peer: bytes) -> None:
        dropped.append(gateway._clients.pop(peer))

    gateway._drop = drop  # type: ignore[method-assign]
    gateway._from_broker(link)
    assert dropped == [there]
    assert "the node's results cannot be sent" in m.decode_answer(sent[0]).text


class Says:
    def __init__(self, frames: list[bytes]) -> None:
        self.frames = frames

    def recv(self, *_: Any) -> bytes:
        return self.frames.pop()


def test_a_partition_is_asked_for_once():
    """Each question may go to the driver: a writer waits for the answer."""
    asked: list[Any] = []
    feed = Feed(4, form=m.Form("rows"), on_open=lambda key, attempt, reply: asked.append(reply))
    feed.hello(b"w", m.Hello("writer", 1, 1))
    feed.handle(b"w", m.OpenPartition("a", 0, False))
    with pytest.raises(TableError):
        feed.handle(b"w", m.OpenPartition("b", 0, False))
    asked[0](0)
    assert len(asked) == 1
    assert isinstance(feed.outbox[-1][1], m.Opened)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_seconds_are_a_number(seconds):
    with pytest.raises(m.UNREADABLE):
        m.decode_request(m.encode(m.ClosePartition(0, 0, seconds)))


def test_a_slot_without_rows_needs_no_bytes():
    check_slot(layout(one("string"), 0, SIZE), bytearray(SIZE), 0, [])
    check_slot(layout(Schema("tuple", ()), 5, SIZE), bytearray(SIZE), 5, [])


def test_values_without_bytes_may_lie_anywhere_in_the_slot():
    where = layout(one("string"), 2, SIZE)
    slot = bytearray(SIZE)
    np.frombuffer(slot, np.uint32, 4)[:] = 0, 0, SIZE, 0
    check_slot(where, slot, 2, [(0, SIZE)])


class Silent:
    """A segment of one slot that others have used, and a link to nobody."""

    slot_bytes = SIZE

    def __init__(self, before: bytes) -> None:
        self.memory = bytearray(before)

    def window(self, slot: int) -> bytearray:
        return self.memory

    def send(self, data: bytes, flags: int = 0) -> None:
        pass


VALUES = st.binary(max_size=12) | st.sampled_from([b"abc", b"\x80\x05N.", b"\xff", struct.pack("<III", 1, 1, 7) + bytes(7)])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_what_passes_is_what_its_reader_can_decode(data):
    """Whatever a client sends for a slot: it is refused, or its rows can be made, and none depends on what was there before."""
    schema, capacity = data.draw(attack._schemas()), data.draw(st.sampled_from([1, 2, 8, 50]))
    rows = data.draw(st.integers(0, capacity))
    slot = bytearray(SIZE)
    with contextlib.suppress(RowTooLarge):
        where = layout(schema, capacity, SIZE)
        top = where.heap
        for offset in (offset for offset, column in zip(where.offsets, schema.columns, strict=True) if column.in_heap):
            for row, value in enumerate(data.draw(st.lists(VALUES, min_size=rows, max_size=rows))):
                end = min(top + len(value), SIZE)
                struct.pack_into("<II", slot, offset + 8 * row, top, end - top)
                slot[top:end], top = value[: end - top], end
    cut = data.draw(st.integers(0, SIZE) | st.just(0))
    for _ in range(data.draw(st.integers(0, 2))):
        slot[data.draw(st.integers(0, SIZE - 1))] ^= data.draw(st.integers(1, 255))
    made = []
    for before in (bytes(SIZE), b"\x07" * SIZE):
        there, memory = Client.__new__(Client), Silent(before)
        there.segment = there.link = memory  # type: ignore[assignment]
        there._granted, there._open, there._schemas = {0}, True, {0: schema}
        try:
            there.up(m.Publish(0, 0, rows, capacity, 0), [m.encode([cut]), bytes(slot[cut:])])  # type: ignore[arg-type]
        except (wire.WireError, SchemaMismatch):
            made.append("refused")
            continue
        for exact, decode in ((True, decoder.rows), (False, decoder.columns)):
            with contextlib.suppress(SchemaMismatch):
                check_mode(schema, exact=exact)
                made.append(repr(decode(where, memory.memory, 0, rows)))
    assert made[: len(made) // 2] == made[len(made) // 2 :]
