"""Which columns exist: one table, which decoder and vetting follow, checked wherever a schema comes off a socket."""

from __future__ import annotations

import pickle
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from tests.support.helpers import wait_for
from tests.support.remote_clients import RemoteWriter, client, hear, remote
from tfos_fast.channel.broker.feed import Feed
from tfos_fast.channel.codec.decode import columns, rows
from tfos_fast.channel.codec.layout import layout
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.remote import wire
from tfos_fast.channel.remote.client import Buffers, RemoteConnection
from tfos_fast.channel.schema.columns import Column, Schema
from tfos_fast.channel.schema.kinds import PICKLED, WAYS, check_mode, is_pickled, way_of
from tfos_fast.errors import BrokerDied, SchemaMismatch

KINDS = ["fixed", "ragged", "string", "bytes", "object", "null", "unused"]
#: What no column has: specimens, and their neighbours.
UNKNOWN: list[dict[str, Any]] = [
    {"kind": "bytes", "python": "object"},
    {"kind": "string", "python": "object"},
    {"kind": "ragged", "dtype": "int64", "shape": (-1,), "python": "object"},
    {"kind": "ragged", "dtype": "bytes", "shape": (-1,), "python": "bytearray"},
    {"kind": "string", "python": "bytes"},
    {"kind": "string", "python": "bytearray"},
    {"kind": "bytes", "python": "string"},
    {"kind": "object", "python": "bytes"},
    {"kind": "object", "python": "string"},
    {"kind": "object", "python": "object"},
    {"kind": "null", "python": "object"},
    {"kind": "unused", "python": "object"},
    {"kind": "fixed", "dtype": "int64", "python": "object"},
    {"kind": "fixed", "dtype": "int64", "python": "float"},
    {"kind": "fixed", "dtype": "int64", "python": "list/int"},
    {"kind": "fixed", "dtype": "int64", "python": "int", "shape": (3,)},
    {"kind": "fixed", "dtype": "int64", "python": "set/int", "shape": (3,)},
    {"kind": "fixed", "dtype": "int64", "python": "npscalar", "shape": (3,)},
    {"kind": "fixed", "dtype": "object"},
    {"kind": "fixed", "dtype": "O"},
    {"kind": "fixed", "dtype": ""},
    {"kind": "fixed", "dtype": "int64", "shape": (-1,)},
    {"kind": "fixed", "dtype": "int64", "shape": (0, 2**40)},
    {"kind": "fixed", "dtype": "int64", "shape": (1,) * 65},
    {"kind": "ragged", "dtype": "int64", "shape": (3,)},
    {"kind": "ragged", "dtype": "int64", "shape": (-1, 0)},
    {"kind": "ragged", "dtype": "int64", "shape": (3, -1)},
    {"kind": "ragged", "dtype": "string", "shape": (-1, 3)},
    {"kind": "ragged", "dtype": "object", "shape": (-1,)},
    {"kind": "pickle"},
]


def said(kind: str, column: dict[str, Any], structure: str = "bare") -> bytes:
    return msgspec.msgpack.encode([kind, {"structure": structure, "columns": [{"name": "c0", **column}]}])


@pytest.mark.parametrize("column", UNKNOWN, ids=str)
def test_what_no_column_has_is_in_no_message(column: dict[str, Any]):
    if column["kind"] in KINDS:
        with pytest.raises(SchemaMismatch, match="'c0'"):
            Column("c0", **column)
    for message in (said("Propose", column), said("Register", column)):
        with pytest.raises(m.UNREADABLE):
            m.decode_request(message)
    with pytest.raises(m.UNREADABLE):
        wire.decode_from_client(said("Propose", column))
    schema = {"structure": "bare", "columns": [{"name": "c0", **column}]}
    for answer in (["Agreed", 0, schema], ["Pinned", 0, schema], ["Deliver", 0, 0, 1, 1, 0, schema, 0]):
        for decode in (m.decode_answer, wire.decode_from_gateway):
            with pytest.raises(m.UNREADABLE):
                decode(msgspec.msgpack.encode(answer))


def test_a_bare_value_has_one_column():
    for count in (0, 2):
        message = ["Propose", {"structure": "bare", "columns": [{"name": f"c{i}", "kind": "string"} for i in range(count)]}]
        with pytest.raises(m.UNREADABLE, match="one column"):
            m.decode_request(msgspec.msgpack.encode(message))


PYTHON = ["", "object", "bytes", "bytearray", "string", "ndarray", "npscalar", "int", "list/int", "tuple/list/float", "pickle"]


BANG: list[int] = []


def bang() -> None:
    BANG.append(1)


class Bomb:
    def __reduce__(self) -> Any:
        return bang, ()


@given(st.sampled_from(KINDS), st.sampled_from(PYTHON) | st.text(max_size=12), st.sampled_from(["", "int64", "float64", "bytes"]),
       st.sampled_from([(), (2,), (2, 1), (-1,)]))  # fmt: skip
def test_the_decoder_unpickles_nothing_that_the_vetting_passes_over(kind: Any, python: str, dtype: str, shape: tuple[int, ...]):
    """Whatever a column calls itself, it cannot be made, or both follow the same line of the table."""
    try:
        column = Column("c0", kind, dtype, shape, python)
    except SchemaMismatch:
        return
    schema = Schema("bare", (column,))
    where = layout(schema, 1, 4096)
    slot = bytearray(4096)
    bomb = pickle.dumps(Bomb())
    if column.in_heap:
        struct.pack_into("<II", slot, 0, where.heap, len(bomb))
        slot[where.heap : where.heap + len(bomb)] = bomb
    for decode in (rows, columns):
        BANG.clear()
        try:
            decode(where, slot, 0, 1)
        except (SchemaMismatch, ValueError):
            continue
        assert not BANG or is_pickled(column)


def test_the_table_names_every_kind_and_says_which_are_pickled():
    assert {kind for kind, _ in WAYS} == set(KINDS)
    assert [key for key, way in WAYS.items() if PICKLED in way] == [("object", "")]
    assert is_pickled(Column("c0", "object"))
    assert way_of(Column("c0", "fixed", "float32", (2, 3), "tuple/list/float")).rows == "numbers"
    assert way_of(Column("c0", "fixed", "bfloat16", (), "float")).rows == "numbers"


@pytest.mark.parametrize(
    ("column", "row_mode", "column_mode"),
    [
        (Column("c0", "ragged", "int64", (-1,)), False, True),
        (Column("c0", "fixed", "int64"), False, True),
        (Column("c0", "fixed", "uint8", (4,), "bytes"), False, True),
        (Column("c0", "bytes", python="bytearray"), True, False),
        (Column("c0", "unused"), False, True),
        (Column("c0", "object"), True, True),
        (Column("c0", "null"), True, True),
    ],
    ids=lambda value: str(value),
)
def test_each_mode_has_columns_of_its_own(column: Column, row_mode: bool, column_mode: bool):
    schema = Schema("bare", (column,))
    where = layout(schema, 2, 4096)
    for exact, has, decode in ((True, row_mode, rows), (False, column_mode, columns)):
        if has:
            check_mode(schema, exact=exact)
            decode(where, bytearray(4096), 0, 0)
        else:
            with pytest.raises(SchemaMismatch, match=r"mode has no columns"):
                check_mode(schema, exact=exact)
            with pytest.raises(SchemaMismatch, match=r"mode has no columns"):
                decode(where, bytearray(4096), 0, 0)


def refusal(form: m.Form, message: Any, role: Any = "writer") -> m.Refused:
    feed = Feed(4, form=form)
    feed.hello(b"a", m.Hello(role, 1, 1))
    feed.outbox.clear()
    feed.handle(b"a", message)
    ((_, answer),) = feed.outbox
    assert isinstance(answer, m.Refused), answer
    return answer


@pytest.mark.parametrize(
    "column",
    [
        Column("c0", "fixed", "int64", nulls="fill", fill="text"),
        Column("c0", "string", nulls="mask"),
        Column("c0", "unused"),
        Column("c0", "fixed", "uint8", (4,), "bytes"),
        Column("c0", "bytes", python="bytearray"),
    ],
    ids=str,
)
def test_a_writer_proposes_only_what_rows_bring(column: Column):
    answer = refusal(m.Form("columns"), m.Propose(Schema("bare", (column,))))
    assert answer.kind == "SchemaMismatch"


def test_the_broker_refuses_columns_of_the_other_mode_and_two_of_one_name():
    ragged = Schema("bare", (Column("c0", "ragged", "int64", (-1,)),))
    twice = (Column("a", "string"), Column("a", "string"))
    assert "row mode" in refusal(m.Form("rows"), m.Propose(ragged)).text
    assert "row mode" in refusal(m.Form("rows"), m.Register(ragged), "reader").text
    assert "one name" in refusal(m.Form("rows"), m.Propose(Schema("dict", twice))).text
    assert "one name" in refusal(m.Form("columns"), m.Propose(Schema("row", twice))).text
    check_mode(Schema("row", twice), exact=True)  # Row("a", "a") is one of Spark's


@pytest.mark.parametrize("column", [c for c in UNKNOWN if c.get("python") == "object"], ids=str)
def test_a_remote_writer_cannot_have_its_bytes_unpickled(column: dict[str, Any]):
    """Bytes with the Python form of an object: the vetting passed over them, and row mode unpickled them."""
    with remote(memory="64k", slot_bytes="4k", form="rows", writers=0) as (channel, far):
        with client(far.address) as dealer:
            for message in (wire.Attach(""), m.Hello("writer", 1, 1), m.OpenPartition("", 0, False)):
                dealer.send(m.encode(message))
            for _ in range(3):
                hear(dealer)
            dealer.send(said("Propose", column))
            answer = hear(dealer)
            assert isinstance(answer, m.Failed)
            assert "protocol error" in answer.text
        wait_for(lambda: channel.status()["writers"] == 0)
        with far.writer() as writer:  # the others never notice
            writer.write_rows([b"\x80\x04."])
        with channel.reader() as reader:
            assert reader.next_rows(1) == [b"\x80\x04."]


def test_null_columns_are_none_in_either_mode():
    where = layout(Schema("tuple", (Column("c0", "null"), Column("c1", "string"))), 2, 4096)
    assert rows(where, bytearray(4096), 0, 2) == [(None, ""), (None, "")]
    np.testing.assert_array_equal(columns(where, bytearray(4096), 0, 2)["c0"], np.array([None, None]))


def test_a_remote_feeder_reads_no_results_that_break_the_protocol():
    """Its gateway may be anybody's who has the node's key: what it says is checked as what a client says is."""
    text = Schema("bare", (Column("c0", "string"),))
    ragged = Schema("bare", (Column("c0", "ragged", "int64", (-1,)),))
    where = layout(text, 1, 4096)
    payload = wire.frames(m.Deliver(0, 0, 1, 1, 0, text), wire.extents(where, bytearray(4096), 1), bytearray(4096))[1:]
    for frames, error in (
        ([b"\xc1"], BrokerDied),
        ([m.encode(m.Deliver(0, 0, 1, 1, 7, None)), *payload], BrokerDied),  # a schema that nobody told
        ([m.encode(m.Deliver(99, 0, 1, 1, 0, text)), *payload], BrokerDied),  # no such slot
        ([m.encode(m.Deliver(0, 0, 2, 1, 0, text)), *payload], BrokerDied),  # more rows than there is room for
        ([m.encode(m.Deliver(0, 0, -1, 1, 0, text)), *payload], BrokerDied),
        ([m.encode(m.Deliver(0, 0, 1, 1, 0, text))], BrokerDied),  # without its payload
        ([said_deliver({"kind": "bytes", "python": "object"}), *payload], BrokerDied),
        ([m.encode(m.Deliver(0, 0, 1, 1, 0, ragged)), *payload], SchemaMismatch),  # not of row mode
    ):
        connection = RemoteConnection.__new__(RemoteConnection)
        connection.broker, connection.segment, connection._schemas = "the node", Buffers(4096, 4), {}
        connection._closed = True
        connection._socket = Said(frames)
        with pytest.raises(error):
            connection._get()


def said_deliver(column: dict[str, Any]) -> bytes:
    return msgspec.msgpack.encode(["Deliver", 0, 0, 1, 1, 0, {"structure": "bare", "columns": [{"name": "c0", **column}]}, 0])


class Said:
    """A socket from which these frames come."""

    def __init__(self, frames: list[bytes]) -> None:
        self.frames = frames

    def recv_multipart(self, *_: Any, **__: Any) -> list[zmq.Frame]:
        return [zmq.Frame(frame) for frame in self.frames]


@pytest.mark.parametrize("kind", ["string", "bytes", "object"])
@pytest.mark.parametrize("entry", [(4095, 2), (2**32 - 1, 2**32 - 1), (0, 2**32 - 1)])
def test_a_remote_writers_value_never_lies_outside_of_its_slot(kind: Any, entry: tuple[int, int]):
    """Its reader would end by it, and so the trainer."""
    schema = Schema("bare", (Column("c0", kind),))
    with remote(memory="64k", slot_bytes="4k", form="rows", writers=0) as (channel, far):
        with client(far.address) as dealer:
            RemoteWriter(dealer).send_slot(schema, 1, 1, [m.encode([0]), struct.pack("<II", *entry)])
            answer = hear(dealer)
            assert isinstance(answer, m.Failed)
            assert "outside of it" in answer.text
        assert channel.status()["rows_published"] == 0
