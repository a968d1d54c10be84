"""Pickled streams that a sender of bad will may put into a slot: each one by hand, and all seeds for the fuzzing of the vetting."""

from __future__ import annotations

import functools
import os
import pickle
import struct
from typing import Any

import numpy as np


def text(value: str) -> bytes:
    """Push text."""
    return b"\x8c" + bytes([len(value.encode())]) + value.encode()


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def dtype(code: str, order: str = "<", size: bytes = b"J\xff\xff\xff\xff") -> bytes:
    return named("numpy", "dtype") + text(code) + b"\x89\x88\x87R" + b"(K\x03" + text(order) + b"NNN" + size + size + b"K\x3ftb"


def whole(body: bytes) -> bytes:
    return b"\x80\x05" + body + b"."


def count8(n: int) -> bytes:
    return n.to_bytes(8, "little")


CORE = "numpy._core.multiarray" if int(np.__version__.split(".")[0]) > 1 else "numpy.core.multiarray"
FROM = CORE.replace("multiarray", "numeric")
ARRAY = named(CORE, "_reconstruct") + named("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"  # without its state
BUFFER, SCALAR, OBJECTS = named(FROM, "_frombuffer"), named(CORE, "scalar"), dtype("O8", "|")
ADDRESS = struct.pack("<Q", 0x4141414141414141)
BOMB = text("touch /tmp/never") + b"\x85R"


def tower(levels: int, base: bytes) -> bytes:
    """A tuple of pairs, each of which holds the one before twice."""
    return b"(" + base + b"\x94" + b"".join((b"h" + bytes([i])) * 2 + b"\x86\x94" for i in range(levels)) + b"t"


def number(value: int) -> bytes:
    digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + len(digits).to_bytes(4, "little") + digits


def arrays_in_arrays(levels: int) -> bytes:
    """Arrays of one object each, which is the next array."""
    begin = b"(" + OBJECTS + b"\x94" + named(CORE, "_reconstruct") + b"\x94" + named("numpy", "ndarray") + b"\x94"
    return begin + b"h\x01h\x02K\x00\x85C\x01b\x87R(K\x01K\x01\x85h\x00\x89]" * levels + b"N" + b"atb" * levels + b"t"


def deques_in_deques(levels: int) -> bytes:
    """Long enough to pay for them."""
    paid = b"X" + (12 * levels).to_bytes(4, "little") + b"x" * (12 * levels)
    return b"(" + paid + named("collections", "deque") + b"\x94)R" + b"h\x00)R" * (levels - 1) + b"a" * (levels - 1) + b"t"


def overlapping_fields(values: int) -> bytes:
    """Scalars of one byte and of two thousand fields."""
    names = [text(f"f{i:04}") for i in range(2000)]
    fields = b"(" + b"".join(names) + b"t}(" + b"".join(name + b"h\x00K\x00\x86" for name in names)
    kind = named("numpy", "dtype") + text("V1") + b"\x89\x88\x87R(K\x03" + text("|") + b"N" + fields + b"uK\x01K\x01K\x10tb"
    return b"(" + dtype("u1", "|") + b"\x94" + kind + b"\x94" + SCALAR + b"\x94" + b"h\x02h\x01C\x01a\x86R" * values + b"t"


@functools.cache
def chosen_keys(bits: int) -> list[int]:
    """Keys for a dict of ``2**bits`` places: half of them in the order of Python's search, then some that follow it."""
    size = 1 << bits
    taken, at = {}, 0
    for i in range(size // 2):
        taken[at] = i
        at = (5 * at + 1) % size
    places = np.full(size, size)
    places[list(taken)] = range(size // 2)
    late = np.random.default_rng(1).integers(0, 1 << 31, 40 * size)
    where, rest = late % size, late
    sound = places[where] < size
    for _ in range(7):
        where, rest = np.where(rest, (where * 5 + (rest >> 5) + 1) % size, where), rest >> 5
        sound &= places[where] < size // (1 if rest.any() else 8)
    return [*taken, *late[sound].tolist()[: size // 6 - 10]]


def as_keys(keys: list[int], value: bytes = b"N") -> bytes:
    return b"(" + b"".join(b"J" + struct.pack("<i", key) + value for key in keys)


class Called:
    def __reduce__(self) -> Any:
        return os.mkdir, ("/nowhere/at/all",)


HOSTILE: dict[str, bytes] = {
    # calls
    "os.system": whole(named("posix", "system") + BOMB),
    "a reduced object": pickle.dumps(Called(), 5),
    "a reduced object of protocol 2": pickle.dumps(Called(), 2),
    "eval": whole(named("builtins", "eval") + BOMB),
    "getattr": whole(named("builtins", "getattr") + named("builtins", "range") + text("__class__") + b"\x86R"),
    "a name with dots": whole(named("datetime", "datetime.strptime") + b")R"),
    "a name of a module": whole(named("collections", "namedtuple") + BOMB),
    "import of a module": whole(named("this", "s")),
    "GLOBAL": b"\x80\x02cposix\nsystem\n(S'true'\ntR.",
    "INST": b"(S'true'\niposix\nsystem\n.",
    "OBJ": whole(b"(" + named("posix", "system") + text("true") + b"o"),
    "NEWOBJ_EX": whole(named("uuid", "UUID") + b")}\x92"),
    "EXT1": whole(b"\x82\x01"),
    "a persistent id": whole(text("x") + b"Q"),
    "an out-of-band buffer": whole(b"\x97"),
    "BUILD of what has no state": whole(b"]}b"),
    "BUILD with attributes": whole(named("uuid", "UUID") + b")\x81}" + text("__class__") + b"K\x01sb"),
    "a call of a value": whole(text("text") + b")R"),
    "a class as a value": whole(named("decimal", "Decimal")),
    "a class in a list": whole(b"]" + named("decimal", "Decimal") + b"a"),
    "a class as a key": whole(b"}" + named("decimal", "Decimal") + b"Ns"),
    "a value without its state": whole(named("uuid", "UUID") + b")\x81"),
    "a list with a value without its state": whole(b"]" + named("uuid", "UUID") + b")\x81a"),
    # memory that is not the sender's
    "an array of addresses": whole(named("numpy", "ndarray") + b"K\x01\x85" + OBJECTS + b"C\x08" + ADDRESS + b"\x87R"),
    "_frombuffer of addresses": whole(BUFFER + b"(C\x08" + ADDRESS + OBJECTS + b"K\x01\x85" + text("C") + b"tR"),
    "a scalar of an address": whole(SCALAR + OBJECTS + b"C\x08" + ADDRESS + b"\x86R"),
    "a state of addresses": whole(ARRAY + b"(K\x01K\x01\x85" + OBJECTS + b"\x89C\x08" + ADDRESS + b"tb"),
    "a struct with an address": whole(
        SCALAR
        + named("numpy", "dtype")
        + text("V8")
        + b"\x89\x88\x87R(K\x03"
        + text("|")
        + b"N"
        + text("a")
        + b"\x85}"
        + text("a")
        + OBJECTS
        + b"K\x00\x86sK\x08K\x01K\x10tbC\x08"
        + ADDRESS
        + b"\x86R"
    ),
    "an array longer than its bytes": whole(BUFFER + b"(C\x08" + ADDRESS + dtype("i8") + b"M\xff\xff\x85" + text("C") + b"tR"),
    "an array of a negative length": whole(
        BUFFER + b"(C\x08" + ADDRESS + dtype("i8") + b"J\xff\xff\xff\xff\x85" + text("C") + b"tR"
    ),
    "a scalar shorter than its type": whole(SCALAR + dtype("i8") + b"C\x01a\x86R"),
    "an array of nothing, very long": whole(
        BUFFER + b"(C\x00" + dtype("V0", "|", b"K\x00") + b"J\xff\xff\xff\x7f\x85" + text("C") + b"tR"
    ),
    "too few objects": whole(ARRAY + b"(K\x01K\x63\x85" + OBJECTS + b"\x89]tb"),
    "numpy.core.multiarray.empty": whole(named(CORE, "empty") + b"J\xff\xff\xff\x7f\x85R"),
    "a fraction of two pointers": whole(named("fractions", "Fraction") + dtype("f8") + b"K\x01\x86R"),
    # memory that costs nothing to send
    "set(range(10**9))": whole(named("builtins", "set") + named("builtins", "range") + b"K\x00J\x00\xca\x9a\x3bK\x01\x87R\x85R"),
    "frozenset(range)": whole(
        named("builtins", "frozenset") + named("builtins", "range") + b"K\x00J\x00\xca\x9a\x3bK\x01\x87R\x85R"
    ),
    "deque(range)": whole(named("collections", "deque") + named("builtins", "range") + b"K\x00J\x00\xca\x9a\x3bK\x01\x87R\x85R"),
    "OrderedDict of a list": whole(named("collections", "OrderedDict") + b"]\x85R"),
    "str * int": whole(named("operator", "mul") + text("x") + b"J\xff\xff\xff\x7f\x86R"),
    "bytes(10**9)": whole(named("builtins", "bytes") + b"J\x00\xca\x9a\x3b\x85R"),
    "bytearray(10**9)": whole(named("builtins", "bytearray") + b"J\x00\xca\x9a\x3b\x85R"),
    "a fraction with an exponent": whole(named("fractions", "Fraction") + text("1e999999999") + b"\x85R"),
    "1 << 10**9": whole(named("operator", "lshift") + b"K\x01J\x00\xca\x9a\x3b\x86R"),
    "BINBYTES8 of 2**62": whole(b"\x8e" + count8(2**62)),
    "BINBYTES8 of 2**64 - 1": whole(b"\x8e" + count8(2**64 - 1)),
    "BYTEARRAY8 of 2**62": whole(b"\x96" + count8(2**62)),
    "BINUNICODE8 of 2**62": whole(b"\x8d" + count8(2**62)),
    "BINBYTES of 2**32 - 1": whole(b"B\xff\xff\xff\xff"),
    "LONG4 of 2**31 - 1": whole(b"\x8b\xff\xff\xff\x7f"),
    "LONG4 of a negative length": whole(b"\x8b\xff\xff\xff\xff"),
    "FRAME of 2**62": whole(b"\x95" + count8(2**62) + b"N"),
    "LONG_BINPUT far away": whole(b"Nr\xff\xff\xff\x7f"),
    "BINPUT": whole(b"Nq\x00"),
    "PUT": whole(b"Np2147483647\n"),
    "LONG_BINGET far away": whole(b"j\xff\xff\xff\x7f"),
    "a long number in the memo": whole(b"\x8b" + (200).to_bytes(4, "little") + b"\x7f" * 200 + b"\x94h\x00\x86"),
    "digits as text": whole(b"L" + b"9" * 1000 + b"L\n"),
    "an integer as text": whole(b"I" + b"9" * 1000 + b"\n"),
    "a float as text": whole(b"F1e5\n"),
    "text with escapes": whole(b"V\\u0041\n"),
    "empty sets": whole(b"](" + b"\x8f" * 100_000 + b"e"),
    "empty dicts": whole(b"](" + b"}" * 100_000 + b"e"),
    "deques": whole(named("collections", "deque") + b"\x94](" + b"h\x00)R" * 20_000 + b"e"),
    "copies of a row": whole(
        b"]("
        + named("pyspark.sql.types", "_create_row")
        + b"\x94]("
        + text("a")
        + b"\x94"
        + b"h\x01" * 19_999
        + b"e\x94("
        + b"N" * 20_000
        + b"t\x86\x94"
        + b"h\x00h\x03R" * 2000
        + b"e"
    ),
    "digits as a key, over and over": whole(
        b"]("
        + named("decimal", "Decimal")
        + b"X"
        + (50_000).to_bytes(4, "little")
        + b"1" * 50_000
        + b"\x85R\x94"
        + b"}h\x00Ns" * 5000
        + b"e"
    ),
    "arrays of one string": whole(
        b"](B"
        + (100_000).to_bytes(4, "little")
        + bytes(100_000)
        + b"\x94"
        + dtype("u1", "|")
        + b"\x94"
        + BUFFER
        + b"\x94"
        + b"h\x02(h\x00h\x01J\xa0\x86\x01\x00\x85"
        + text("C")
        + b"tR"
        + b"h\x02(h\x00h\x01J\xa0\x86\x01\x00\x85\x8c\x01CtR" * 2000
        + b"e"
    ),
    "decimals of one text": whole(
        b"](X"
        + (100_000).to_bytes(4, "little")
        + b"1" * 100_000
        + b"\x85\x94"
        + named("decimal", "Decimal")
        + b"\x94"
        + b"h\x01h\x00R" * 2000
        + b"e"
    ),
    # time that costs nothing to send
    "a range of many digits": whole(
        named("builtins", "range") + number(1) + number(1 << 400_000) + number((1 << 200_000) + 1) + b"\x87R"
    ),
    "fractions of many digits": whole(
        b"("
        + named("fractions", "Fraction")
        + b"\x94"
        + number(3**40_000)
        + number(2**63_000)
        + b"\x86\x94"
        + b"h\x00h\x01R" * 200
        + b"t"
    ),
    "values of many fields": whole(overlapping_fields(1000)),
    "keys of a dict that look for their places": whole(b"}" + as_keys(chosen_keys(16)) + b"u"),
    "keys of a set that look for their places": whole(b"\x8f" + as_keys(chosen_keys(16), b"") + b"\x90"),
    "keys of a frozenset that look for their places": whole(as_keys(chosen_keys(16), b"") + b"\x91"),
    # what overflows the stack of a process when it is freed
    "arrays in arrays": whole(arrays_in_arrays(20_000)),
    "deques in deques": whole(deques_in_deques(100_000)),
    "slices in slices": whole(named("builtins", "slice") + b"\x94" + b"h\x00" * 200_000 + b"N" + b"NN\x87R" * 200_000 + b"R"),
    # growth wherever the value goes
    "a tower of pairs": whole(tower(40, b"]")),
    "a tower of lists": whole(b"(]\x94" + b"".join(b"](" + (b"h" + bytes([i])) * 10 + b"e\x94" for i in range(9)) + b"t"),
    "a tower of pairs in a slice": whole(named("builtins", "slice") + tower(40, b"]") + b"NN\x87R"),
    "a tower of pairs in an array": whole(ARRAY + b"(K\x01K\x01\x85" + OBJECTS + b"\x89]" + tower(40, b"]") + b"atb"),
    "a tower of pairs as a key": whole(b"}" + tower(40, text("x")) + b"Ns"),
    "a low tower of pairs as a key": whole(b"}" + tower(25, text("x")) + b"Ns"),
    "a tower of pairs in a set": whole(b"\x8f(" + tower(40, text("x")) + b"\x90"),
    "a list in itself": whole(b"]\x94h\x00a"),
    "a dict in itself": whole(b"}\x94Nh\x00s"),
    "a deque in itself": whole(named("collections", "deque") + b")R\x94h\x00a"),
    "an array in itself": whole(ARRAY + b"\x94(K\x01K\x01\x85" + OBJECTS + b"\x89]h\x00atb"),
    "lists without end": whole(b"]" * 100_000 + b"a" * 99_999),
    "tuples without end": whole(b"N" + b"\x85" * 100_000),
    # time
    "a key without end": whole(b"}N" + b"\x85" * 10_000 + b"Ns"),
    "a set with a key without end": whole(b"\x8f(N" + b"\x85" * 10_000 + b"\x90"),
    "a frozenset with a key without end": whole(b"(N" + b"\x85" * 10_000 + b"\x91"),
    "keys of one hash": whole(
        b"}(" + b"".join(b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"N" for i in range(1, 40)) + b"u"
    ),
    "keys of one hash, one by one": whole(
        b"}" + b"".join(b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"Ns" for i in range(1, 40))
    ),
    "members of one hash": whole(
        b"\x8f(" + b"".join(b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") for i in range(1, 40)) + b"\x90"
    ),
    "a list as a key": whole(b"}]Ns"),
    # values that cannot be
    "a date with a month of 200": whole(named("datetime", "date") + b"C\x04\x07\xe4\xc8\x01\x85R"),
    "a datetime with an hour of 200": whole(named("datetime", "datetime") + b"C\x0a\x07\xe4\x01\x01\xc8\x00\x00\x00\x00\x00\x85R"),
    "a time with a minute of 200": whole(named("datetime", "time") + b"C\x06\x01\xc8\x00\x00\x00\x00\x85R"),
    "a timezone of 10**9 days": whole(
        named("datetime", "timezone") + named("datetime", "timedelta") + b"J\x00\xca\x9a\x3bK\x00K\x00\x87R\x85R"
    ),
    "a datetime with a zone of another type": whole(
        named("datetime", "datetime") + b"C\x0a\x07\xe4\x01\x01\x00\x00\x00\x00\x00\x00K\x01\x86R"
    ),
    "a range with a step of 0": whole(named("builtins", "range") + b"K\x00K\x01K\x00\x87R"),
    "a UUID of 2**128": whole(
        named("uuid", "UUID") + b")\x81}" + text("int") + b"\x8a\x12" + (2**128).to_bytes(18, "little") + b"sb"
    ),
    "a fraction over 0": whole(named("fractions", "Fraction") + b"K\x01K\x00\x86R"),
    "no decimal": whole(named("decimal", "Decimal") + text("one") + b"\x85R"),
    "text that is no UTF-8": whole(b"\x8c\x01\xff"),
    "an element type that numpy parses": whole(
        named("numpy", "dtype") + text("i4,O") + b"\x89\x88\x87R(K\x03" + text("|") + b"NNNK\x0cK\x01K\x3ftb"
    ),
    # no stream
    "nothing": b"",
    "garbage": b"garbage",
    "protocol 255": b"\x80\xffN.",
    "no protocol": b"N.",
    "a protocol in the middle": whole(b"\x80\x05N"),
    "no value": whole(b""),
    "two values": whole(b"NN"),
    "an open mark": whole(b"(N"),
    "a mark without a stack": whole(b"NN(00t"),
    "something behind": whole(b"N") + b"N.",
    "no end": b"\x80\x05N",
    "POP": whole(b"NN0"),
    "DUP": whole(b"N2\x86"),
    "an odd number of items": whole(b"}(K\x01u"),
    "a tuple of nothing": whole(b"\x87"),
    "items for a tuple": whole(b")K\x01a"),
    "items for a list as a dict": whole(b"]K\x01K\x02s"),
}
