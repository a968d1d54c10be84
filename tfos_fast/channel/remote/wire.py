"""How the channel's messages travel over TCP: what a remote writer and the gateway add to those of a broker's socket. Pure.

A filled slot goes behind its message (``Publish`` or ``Deliver``), as frames of at most ``FRAME`` bytes: the extents of the slot
that its rows use. The frame between says where in the slot each one lies. Nothing else has more than one frame::

    Publish | [offset, offset, ...] | bytes | bytes | ...

1 MiB is where a CURVE socket is fastest: what it encrypts and decrypts still lies in the caches when it is copied on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from tfos_fast.channel.codec.layout import Layout, layout
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.schema.columns import ENTRY_BYTES
from tfos_fast.native.nt_copy import copy

FRAME = 1 << 20
MAX_CONTROL = 4 << 20  # bytes of a message without payload: a schema of many columns
HEARTBEAT_MS = 1000
SILENCE_MS = 5000  # a connection on which nothing was heard for so long is cut
CONNECT_MS = 5000
_GAP = 4096  # extents that lie closer to each other are sent as one
_MOST = 64  # extents of one slot

Extent = tuple[int, int]  # (offset, length)


class WireError(Exception):
    """What came over the network breaks the protocol; its sender is dropped."""


class Attach(m.Message):
    """First message of a remote client: which feed of the node it wants (empty: the default one). The answer is Attached."""

    feed: str


class Attached(m.Message):
    """The gateway is ready to relay; of this shape are the feed's slots."""

    slot_bytes: m.Count
    n_slots: m.Count


class Still(m.Message):
    """Sent by the gateway now and then, to see whether the client is still there. There is no answer."""


#: What a remote writer may say. The gateway relays nothing else.
Relayed = (
    m.Hello | m.Bye | m.AskStatus | m.Stalled | m.OpenPartition | m.Propose | m.Met | m.Want | m.Publish | m.GiveBack
    | m.ClosePartition | m.Done
)  # fmt: skip

decode_from_client = msgspec.msgpack.Decoder(Attach | Relayed).decode
decode_from_gateway = msgspec.msgpack.Decoder(m.Answer | Attached | Still).decode
_decode_offsets = msgspec.msgpack.Decoder(list[m.Count]).decode

# The same arguments come again for each slot of a writer in full swing.
slot_layout = lru_cache(64)(layout)


def used(where: Layout, slot: Any, rows: int) -> list[Extent]:
    """The parts of a slot that its first ``rows`` rows use, in order."""
    columns = where.schema.columns
    parts = [(offset, rows * column.row_bytes) for offset, column in zip(where.offsets, columns, strict=True)]
    parts += [(mask, rows) for mask in where.masks if mask >= 0]
    entries = np.frombuffer(slot, np.uint8)
    end = where.heap
    for offset, column in zip(where.offsets, columns, strict=True):
        if column.in_heap and rows:
            pairs = entries[offset : offset + rows * ENTRY_BYTES].view(np.uint32)
            end = max(end, int((pairs[::2].astype(np.uint64) + pairs[1::2]).max()))
    parts.append((where.heap, end - where.heap))
    return sorted(part for part in parts if part[1])


def extents(where: Layout, slot: Any, rows: int) -> list[Extent]:
    """What of a slot is sent for its first ``rows`` rows: the parts that they use, together where they lie close to each other."""
    out: list[Extent] = []
    for offset, length in used(where, slot, rows):
        if out and offset - sum(out[-1]) < _GAP:
            out[-1] = (out[-1][0], max(sum(out[-1]), offset + length) - out[-1][0])
        else:
            out.append((offset, length))
    return out if len(out) <= _MOST else [(out[0][0], sum(out[-1]) - out[0][0])]


def frames(message: m.Publish | m.Deliver, parts: Sequence[Extent], slot: Any) -> list[Any]:
    """A message with a slot's contents as frames. The slot's memory is not copied: it must stay as it is until they are sent."""
    view = memoryview(slot).cast("B")
    pieces = list(_pieces(parts))
    offsets = m.encode([start for start, _ in pieces])
    return [m.encode(message), offsets, *(view[start : start + length] for start, length in pieces)]


def _pieces(parts: Sequence[Extent]) -> Iterator[Extent]:
    for offset, length in parts:
        for start in range(offset, offset + length, FRAME):
            yield start, min(FRAME, offset + length - start)


def unpack(payload: Sequence[Any], slot: Any, slot_bytes: int) -> list[Extent]:
    """Copy the frames behind a message into a slot. Everything is checked before anything is copied. Returns where they lie now.

    Raises
    ------
    WireError
        They are malformed, or reach out of the slot.
    """
    if not payload:
        raise WireError("a slot's message without its payload")
    try:
        offsets = _decode_offsets(payload[0])
    except m.UNREADABLE as error:
        raise WireError(f"offsets of a payload: {error}") from None
    pieces = [memoryview(piece).cast("B") for piece in payload[1:]]
    if len(offsets) != len(pieces) or any(at + len(piece) > slot_bytes for at, piece in zip(offsets, pieces, strict=True)):
        raise WireError(f"a payload that reaches out of a slot of {slot_bytes} bytes")
    if len(pieces) > _MOST + slot_bytes // FRAME + 1:
        raise WireError(f"a payload of {len(pieces)} frames for a slot of {slot_bytes} bytes")
    view = memoryview(slot).cast("B")
    for at, piece in zip(offsets, pieces, strict=True):
        copy(view[at : at + len(piece)], piece)
    return [(at, len(piece)) for at, piece in zip(offsets, pieces, strict=True)]
