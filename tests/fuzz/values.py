"""Mutated pickled values against the reader of a remote feed's objects: ``make fuzz`` runs this behind the decoder.

Each stream is data or refused. What is data is pickled again, and unpickled from that: it must be the same, and be no larger than
the budget says. Nothing may be imported or called, and no stream may take long.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import decimal
import fractions
import pickle
import random
import sys
import time
import tracemalloc
import uuid
from typing import Any

import numpy as np

from tests.fuzz.hostile import HOSTILE
from tests.fuzz.stream import mutated as mutated_by
from tfos_fast.channel.untrusted.budget import Budget, Refused
from tfos_fast.channel.untrusted.pickles import build
from tfos_fast.channel.untrusted.types import NAMES
from tfos_fast.channel.untrusted.vetting import ALLOWED, COST

VALUES: list[Any] = [
    {"name": "x", "tags": ["a", "b"], "n": 2**70, "w": 1.5, "none": None, "raw": b"x" * 300, "t": (1, True)},
    [
        collections.OrderedDict(a=1),
        collections.deque([1, 2], 5),
        {1, 2},
        frozenset(["a"]),
        range(5),
        slice(1, 2),
        1j,
        bytearray(b"ab"),
    ],
    [
        datetime.date(2020, 1, 2),
        datetime.datetime(2020, 1, 2, 3, 4, 5, 6, datetime.timezone.utc),
        datetime.time(1),
        datetime.timedelta(1),
    ],
    [decimal.Decimal("1.5"), fractions.Fraction(1, 3), uuid.UUID(int=5)],
    [np.arange(5.0), np.arange(6).reshape(2, 3)[:, ::2], np.array([1, "a", None], object), np.zeros((2, 3, 4)).transpose(1, 0, 2)],
    [
        np.zeros(2, [("a", "i4"), ("b", "S3", (2,))]),
        np.array([1], "M8[25s]"),
        np.array(["a", "bc"]),
        np.float32(1),
        np.datetime64(5, "s"),
    ],
    [np.longdouble(1), np.str_("é"), np.zeros(2, [("t", "U2"), ("f", ">f8")]), np.array([1.5], np.float16)],
    [["shared"] * 3] * 3,
    {i: {(i, "a"): i} for i in range(20)},
]
#: Pieces of streams: names, and opcodes with their arguments.
PIECES = [
    *(b"\x8c" + bytes([len(m)]) + m.encode() + b"\x8c" + bytes([len(n)]) + n.encode() + b"\x93" for m, n in NAMES),
    *(b"\x8c\x08builtins\x8c" + bytes([len(n)]) + n.encode() + b"\x93" for n in ("set", "eval", "getattr", "bytes")),
    b"K\x01",
    b"J\xff\xff\xff\x7f",
    b"N",
    b")",
    b"]",
    b"}",
    b"\x8f",
    b"(",
    b"\x85",
    b"\x86",
    b"\x87",
    b"t",
    b"a",
    b"e",
    b"s",
    b"u",
    b"\x90",
    b"\x91",
    b"R",
    b"\x81",
    b"b",
    b"\x94",
    b"h\x00",
    b"h\x01",
    b"h\x05",
    b"C\x08AAAAAAAA",
    b"\x8c\x02O8",
    b"\x8c\x02f8",
    b"\x89",
    b"\x88",
    b"\x8e" + b"\xff" * 8,
    b"\x96" + b"\xff" * 8,
    b"\x8d" + b"\xff" * 8,
    b"\x95" + b"\xff" * 8,
    b"\x8b\xff\xff\xff\x7f",
    b"j\xff\xff\xff\x7f",
]
#: Audit events that no value may cause once the types are imported.
EVENTS = frozenset(
    ["exec", "os.system", "subprocess.Popen", "pickle.find_class", "socket.connect", "ctypes.dlopen", "builtins.input"]
)
called: list[str] = []
LONG_S = 5.0  # a stream of a few KiB that takes so long is a finding, on any machine


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if event in EVENTS and building:
        called.append(event)


building: list[bool] = []


class Target:
    """What is attacked: the reader of values.

    Attributes
    ----------
    streams : list of bytes
        Sound ones to begin with.
    read : int
        Streams that were data.
    """

    def __init__(self) -> None:
        parts = [part for value in VALUES for part in (value, *(value if isinstance(value, list) else ()))]
        # Without frames, which an accident anywhere would make too long.
        self.streams = [stream[:2] + stream[11:] for stream in (pickle.dumps(part, 5) for part in parts) if stream[2:3] == b"\x95"]
        self.streams += [stream for stream in HOSTILE.values() if 2 < len(stream) < 4096]
        self.read = 0
        for module in ("pyspark.sql.types", "pyspark.ml.linalg", "ml_dtypes"):  # not while a stream is read
            with contextlib.suppress(ImportError):
                __import__(module)
        sys.addaudithook(_hear)

    def attack(self, stream: bytes) -> None:
        """Read a stream. Raises for anything but data and a refusal."""
        called.clear()
        begin = time.monotonic()
        building.append(True)
        try:
            value = build(stream, Budget(ALLOWED + COST * len(stream)))
            ours = pickle.dumps(value, 5)
        except (Refused, RecursionError):
            pass
        else:
            building.clear()
            self.read += 1
            assert _same(pickle.loads(ours), value), stream
            assert len(ours) <= 2 * ALLOWED + 2 * COST * len(stream)
        finally:
            building.clear()
        assert time.monotonic() - begin < LONG_S, f"a stream of {len(stream)} bytes took too long: {stream!r}"
        assert not called, f"{called} by {stream!r}"


def _same(a: Any, b: Any) -> bool:
    # Sets are not in the same order when some of their members have one hash.
    return type(a) is type(b) and (repr(a) == repr(b) or sorted(repr(a)) == sorted(repr(b)))


def mutated(streams: list[bytes], random_: random.Random) -> bytes:
    """One of the streams after a few accidents, or a heap of pieces."""
    if random_.random() < 0.2:
        return b"\x80\x05" + b"".join(random_.choices(PIECES, k=random_.randint(1, 30))) + b"."
    if random_.random() < 0.6:  # a small accident leaves more of it to be read
        data = bytearray(random_.choice(streams))
        for _ in range(random_.randint(1, 2)):
            data[random_.randrange(2, len(data))] = random_.choice([random_.randrange(256), 0, 1, 255, *b"N)]}K\x94"])
        return bytes(data)
    damaged = mutated_by(streams, random_)
    at = random_.randrange(len(damaged) + 1)
    return damaged[:at] + random_.choice(PIECES) + damaged[at:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    random_ = random.Random(options.seed)
    target, tried = Target(), 0
    until = time.monotonic() + options.seconds
    tracemalloc.start()
    while time.monotonic() < until:
        stream = mutated(target.streams, random_)
        tried += 1
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        target.attack(stream)
        _, most = tracemalloc.get_traced_memory()
        assert most - before < 8 * ALLOWED + 4 * COST * len(stream), f"{most - before} bytes for {stream!r}"
    print(f"{tried} values, {target.read} of them data")


if __name__ == "__main__":
    main()
