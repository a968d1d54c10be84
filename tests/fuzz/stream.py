"""Mutated pickle streams against the decoder: ``make fuzz SECONDS=60`` runs this under the sanitizers.

Streams of common rows are cut, spliced and strewn with opcodes; each is loaded, and what was read of it is packed by packers of
many schemas. There is nothing to compare: a damaged stream has no meaning, and only must not crash or read beyond its end.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import pickle
import random
import time

import numpy as np

from tests.support.jvm_rows import ROWS, SCHEMA, pickled
from tests.support.pickled_rows import COMMON
from tfos_fast.channel.codec.layout import Layout, plan
from tfos_fast.channel.schema.columns import Schema
from tfos_fast.channel.schema.detect import infer
from tfos_fast.channel.schema.widen import Nulls, apply_nulls, join, leave_out
from tfos_fast.native.pickled.batch import StreamBatch
from tfos_fast.native.pickled.pack_rows import pack_stream
from tfos_fast.native.row_packer import RowPacker

RAGGED = {
    "lists": [([*range(i % 5)], np.arange(i % 3, dtype=np.float32), None if i % 4 else i, [0.5] * 300) for i in range(30)],
    "nulls": [{"x": None if i % 2 else [1.0, 2.0], "n": None if i % 3 else "t", "b": i % 5 or None} for i in range(30)],
}
NULLS = {"*": Nulls(mask=True)}
OPCODES = b"(.0GJKMN]})aesutRbchjqrXCB\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x93\x94\x95\x96"
SLOT = 1 << 16


class Refused(Exception):
    """Instead of unpickling, which a mutated stream may use for anything."""


def refuse(_: bytes) -> list[object]:
    raise Refused


class Target:
    """What is attacked: the decoder, and packers of many schemas behind it.

    Attributes
    ----------
    streams : list of bytes
        Sound ones to begin with.
    read, rows : int
        Streams that the decoder took, and rows that were packed of them.
    """

    def __init__(self) -> None:
        known = [*COMMON.values(), *RAGGED.values()]
        self.streams = [pickle.dumps(rows[:count], protocol) for rows in known for protocol in (2, 3, 4, 5) for count in (1, 2, 5)]
        self.streams += [pickled(ROWS[:count], SCHEMA) for count in (1, 2, 5)] * 4
        schemas = [
            (infer(rows[0], exact=exact), exact)
            for exact in (False, True)
            for rows in [*COMMON.values(), pickle.loads(pickled(ROWS[:1], SCHEMA))]
        ]
        self.packers = [(RowPacker(schema, exact=exact), _plan(schema)) for schema, exact in schemas]
        for schema in [schema for schema, exact in schemas if not exact and len(schema.columns) > 1]:
            part = leave_out(schema, schema.names[1:])
            self.packers.append((RowPacker(part, exact=False), _plan(part)))
        for rows_of in RAGGED.values():
            joined = functools.reduce(functools.partial(join, exact=False), (infer(row, exact=False) for row in rows_of))
            schema = apply_nulls(joined, NULLS)
            self.packers += [(RowPacker(schema, exact=False, cast=True), _plan(schema))] * 8
        self.read = self.rows = 0
        self._memory = _whole_slot()

    def attack(self, stream: bytes, earlier: bytes, packers: list[tuple[RowPacker, Layout]]) -> None:
        """Load a stream after an earlier one, rows of which may be its pattern, and pack it by each of the packers."""
        batch = StreamBatch(refuse)
        batch.load(earlier)
        if not batch.load(stream):
            return
        self.read += 1
        for packer, layout in packers:
            batch.load(stream)
            packer.bind(self._memory, layout)
            with contextlib.suppress(Refused):
                pack_stream(packer, batch, 1.0)
            self.rows += packer.rows
            packer.unbind()
            packer.take_pending()


def _plan(schema: Schema) -> Layout:
    return plan(schema, SLOT, batch=1, heap_per_row=64.0)


def _whole_slot() -> np.ndarray:
    """A slot with nothing behind it that belongs to it, so that the sanitizer sees whatever is written there."""
    kept = []
    while True:
        memory = np.full(SLOT, 0xA5, np.uint8)
        if memory.ctypes.data % 64 == 0:
            return memory
        kept.append(memory)  # the next one lies elsewhere
        assert len(kept) < 1000


def mutated(streams: list[bytes], random_: random.Random) -> bytes:
    """One of the streams after a few accidents."""
    data = bytearray(random_.choice(streams))
    for _ in range(random_.randint(1, 6)):
        kind, at = random_.random(), random_.randrange(len(data) + 1)
        if kind < 0.5:
            data[at : at + 1] = bytes([random_.randrange(256) if kind < 0.3 else random_.choice(OPCODES)])
        elif kind < 0.65:
            data[at:at] = bytes([random_.choice(OPCODES)])
        elif kind < 0.8:
            del data[at : at + random_.randint(1, 9)]
        else:
            other = data if kind < 0.9 else random_.choice(streams)
            begin = random_.randrange(len(other) + 1)
            data[at:at] = other[begin : begin + random_.randint(1, 200)]
    return bytes(data)


def before(stream: bytes, streams: list[bytes]) -> bytes:
    """One of the streams that begins as this one does, as far as any does."""

    def shared(other: bytes) -> int:
        return next((i for i, (a, b) in enumerate(zip(stream[:200], other[:200], strict=False)) if a != b), 200)

    return max(streams, key=lambda other: (shared(other), len(other)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    random_ = random.Random(options.seed)
    target, tried = Target(), 0
    until = time.monotonic() + options.seconds
    while time.monotonic() < until:
        stream = mutated(target.streams, random_)
        tried += 1
        earlier = random_.choice(target.streams) if random_.random() < 0.3 else before(stream, target.streams)
        target.attack(stream, earlier, random_.sample(target.packers, 4))
    print(f"{tried} streams, {target.read} of them read, {target.rows} rows packed")


if __name__ == "__main__":
    main()
