"""What a stranger on the network, another user of the host, or a broken client may try. For the tests of what listens."""

from __future__ import annotations

import os
import pickle
import socket
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
import pytest
import zmq
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tfos_fast.channel.schema.columns import Column, Fill, Schema
from tfos_fast.channel.schema.kinds import WAYS

NOBODY = 65534


def greeting(mechanism: bytes, *, server: bool = False) -> bytes:
    """The 64 bytes that a ZMTP 3.1 peer says first."""
    return b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + mechanism.ljust(20, b"\0") + bytes([server]) + bytes(31)


def huge_frame(size: int = 1 << 40) -> bytes:
    """The head of a frame that is said to be so long."""
    return b"\x02" + size.to_bytes(8, "big")


#: What somebody may say who connects without knowing any key.
OPENINGS = {
    "nothing": b"",
    "half a greeting": greeting(b"CURVE")[:30],
    "a greeting": greeting(b"CURVE"),
    "no security": greeting(b"NULL") + b"\x04\x26\x05READY" + b"\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00",
    "a password": greeting(b"PLAIN") + b"\x04\x09\x05HELLO\x01a\x01b",
    "another protocol": b"GET / HTTP/1.1\r\nHost: driver\r\n\r\n",
    "an old protocol": b"\x01\x00",
    "a server's greeting": greeting(b"CURVE", server=True),
    "a huge frame": greeting(b"CURVE") + huge_frame(),
    "a frame of negative length": greeting(b"CURVE") + huge_frame((1 << 64) - 1),
    "a hello of zeros": greeting(b"CURVE") + b"\x04\xc8\x05HELLO" + bytes(194),
    "a message before the handshake": greeting(b"CURVE") + b"\x00\x04\x93\xa3Bye",
    "zeros": bytes(100_000),
    "noise": bytes(range(256)) * 400,
}


def place(endpoint: str) -> tuple[str, int]:
    """Host and port of ``tcp://host:port``."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host, int(port)


#: For a property that is tried against one server.
LIVE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@contextmanager
def connections(endpoint: str, number: int, opening: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many TCP connections that say an opening and then nothing."""
    with ExitStack() as stack:
        sockets = []
        for _ in range(number):
            sockets.append(stack.enter_context(socket.create_connection(place(endpoint), 10)))
            sockets[-1].sendall(opening)
        yield sockets


def closed_by_peer(connection: socket.socket, seconds: float) -> bool:
    """Whether the other side closes; what it says before is dropped."""
    connection.settimeout(seconds)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def say(endpoint: str, data: bytes) -> None:
    """Connect, say this, listen until the other side has nothing to say for a moment, hang up."""
    with socket.create_connection(place(endpoint), 10) as connection:
        with suppress(OSError):  # it may hang up in the middle
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        closed_by_peer(connection, 5)


class Proxy:
    """A way to an endpoint that notes what the client says, and may change it.

    Attributes
    ----------
    endpoint : str
        Where a client finds it.
    said : list of bytearray
        By the client, for each connection.
    change : callable
        ``change(data) -> data`` for what passes from the client from now on.
    """

    def __init__(self, target: str) -> None:
        self._target = place(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.said: list[bytearray] = []
        self.change: Callable[[bytes], bytes] = bytes
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._open += [client, server]
                noted = bytearray()
                self.said.append(noted)
                threading.Thread(target=self._pass, args=(client, server, noted), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, None), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, noted: bytearray | None) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if noted is not None:
                    noted += data
                    data = self.change(data)
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in (self._listener, *self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextmanager
def dealer(endpoint: str, **options: Any) -> Iterator[Any]:
    """A socket of ZeroMQ's own, with these options."""
    context = zmq.Context()
    it = context.socket(zmq.DEALER)
    it.linger = 0
    for name, value in options.items():
        setattr(it, name, value)
    it.connect(endpoint)
    try:
        yield it
    finally:
        context.destroy(linger=0)


# ---- messages ----------------------------------------------------------------------------------------------------------------


class Bomb:
    """Pickled, it makes a file when somebody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def bombs(path: Path, kinds: Any) -> Iterator[bytes]:
    """The payload as it is, and in each field of each message that takes text or bytes."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.dumps(Bomb(path), protocol)
    payload = pickle.dumps(Bomb(path), 0)
    for kind in get_args(kinds):
        fields = msgspec.structs.fields(kind)
        yield msgspec.msgpack.encode([kind.__name__, *[payload] * len(fields)])
        yield msgspec.msgpack.encode([kind.__name__, *[payload.decode()] * len(fields)])
        yield msgspec.msgpack.encode([kind.__name__, *[msgspec.msgpack.Ext(1, payload)] * len(fields)])


def messages_of(kinds: Any) -> st.SearchStrategy[Any]:
    """Messages of a union of structs, well typed and without sense."""
    return st.one_of([_of(kind) for kind in get_args(kinds)])


def _of(kind: Any) -> st.SearchStrategy[Any]:
    if get_origin(kind) is not None and hasattr(kind, "__metadata__"):
        meta = kind.__metadata__[0]
        if kind.__origin__ is int:
            numbers = st.integers(meta.ge, meta.le)
            small = st.integers(max(meta.ge, -1), 5)
            return st.one_of(small, small, numbers)
        if kind.__origin__ is float:
            return st.floats(meta.ge, meta.le)
        return _of(kind.__origin__)
    origin = get_origin(kind)
    if origin in (types.UnionType, Union):
        return st.one_of([_of(part) for part in get_args(kind)])
    if origin is Literal:
        return st.sampled_from(get_args(kind))
    if origin is list:
        return st.lists(_of(get_args(kind)[0]), max_size=4)
    if origin is tuple:
        parts = get_args(kind)
        return st.lists(_of(parts[0]), max_size=4).map(tuple) if parts[-1] is ... else st.tuples(*map(_of, parts))
    if origin is dict:
        key, value = get_args(kind)
        return st.dictionaries(_of(key), _of(value), max_size=3)
    if kind is Schema:
        return _schemas()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return st.builds(kind, *[_of(field.type) for field in msgspec.structs.fields(kind)])
    simple: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(-(1 << 63), (1 << 64) - 1),
        float: st.floats(),
        bool: st.booleans(),
        bytes: st.binary(max_size=20),
        type(None): st.none(),
        # Words that mean something, or letters.
        str: st.sampled_from(["", "a", "b", "int64", "float32", "string", "object", "start", "feed", "feed1/0/0", "../x", "a\0b"])
        | st.text(st.characters(codec="utf-8"), max_size=10),
    }
    return simple[kind]


#: Python forms of fixed columns, and how many dimensions each has.
_FORMS = {"": 1, "bytes": 1, "ndarray": 2, "npscalar": 0, "int": 0, "list/int": 1, "tuple/list/int": 2}


def _columns() -> st.SearchStrategy[Column]:
    """Columns of the table in ``channel/schema/kinds.py``: no other ones can be made."""
    names = st.sampled_from(["a", "b", "c", ""])
    nulls = st.sampled_from(["", "seen", "fill", "mask"])
    fill = _of(Fill)
    others = [Column("a", kind, python=python) for kind, python in WAYS if kind not in ("fixed", "ragged")]  # type: ignore[arg-type]
    ragged = [Column("a", "ragged", dtype, (-1, -1)) for dtype in ("int64", "string", "bytes")]
    lengths = st.sampled_from([0, 1, 2, 60_000])
    fixed = st.sampled_from(sorted(_FORMS)).flatmap(
        lambda python: st.lists(lengths, min_size=_FORMS[python], max_size=_FORMS[python]).map(
            lambda shape: Column("a", "fixed", "int64", tuple(shape), python)
        )
    )
    return st.builds(
        lambda column, name, nulls, fill: msgspec.structs.replace(column, name=name, nulls=nulls, fill=fill),
        st.sampled_from([*others, *ragged]) | fixed, names, nulls, fill,
    )  # fmt: skip


def _schemas() -> st.SearchStrategy[Schema]:
    several = st.builds(Schema, st.sampled_from(["tuple", "list", "dict", "row"]), st.lists(_columns(), max_size=4).map(tuple))  # type: ignore[arg-type]
    return several | _columns().map(lambda column: Schema("bare", (column,)))


@st.composite
def mutated(draw: Any, data: bytes) -> bytes:
    """These bytes with a few of them changed, cut out or put in."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(out)))
        how = draw(st.sampled_from(["change", "cut", "put", "end"]))
        if how == "change" and at < len(out):
            out[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del out[at : at + draw(st.integers(1, 8))]
        elif how == "put":
            out[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            del out[at:]
    return bytes(out)


# ---- another user ------------------------------------------------------------------------------------------------------------


def as_user(work: Callable[[], str], uid: int = NOBODY) -> str:
    """What ``work`` returns in a forked process of another user, or the name of the exception that it raises.

    It may import nothing and use no thread of this process. Without root the test that asks for it is skipped.
    """
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            answer = work()
        except BaseException as error:
            answer = type(error).__name__
        os.write(write, answer.encode()[:60_000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(pid, 0)
    return answer
