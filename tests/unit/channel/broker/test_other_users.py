"""Another user of the host, and clients of this user that are broken, at the socket and the segment of a broker."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import stat
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import zmq
from hypothesis import strategies as st

from tests.support import attack
from tests.support.helpers import broker_here, wait_for
from tfos_fast.channel import Channel
from tfos_fast.channel.broker import broker as module
from tfos_fast.channel.broker.feed import Feed
from tfos_fast.channel.broker.slot_table import TableError
from tfos_fast.channel.host.processes import runtime_base, started
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.address import Address

ROOT = Path(__file__).parents[4]
HELLO = {role: m.Hello(role, os.getpid(), started(os.getpid())) for role in ("writer", "reader", "control")}  # type: ignore[arg-type]
NESTED = b"\x92\xa3Bye" + b"\x91" * 100_000 + b"\x90"


def status_of(address: str) -> m.Status:
    """The broker answers a client that was not there before."""
    with attack.dealer(f"ipc://{Address.parse(address).socket}") as client:
        client.send(m.encode(HELLO["control"]))
        client.send(m.encode(m.AskStatus()))
        while True:
            assert client.poll(10_000), "the broker does not answer"
            message = m.decode_answer(client.recv())
            if isinstance(message, m.Status):
                return message


# ---- another user ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def channel():
    with Channel.create(memory="64k", slot_bytes="4k", form="rows") as it, it.writer() as writer:
        writer.write_rows([b"a secret"] * 10)
        yield it


def test_the_runtime_folder_is_private(channel):
    directory = Path(Address.parse(channel.address).socket).parent
    for folder in (directory, runtime_base()):
        info = folder.stat()
        assert (stat.S_IMODE(info.st_mode), info.st_uid) == (0o700, os.getuid())


def test_another_user_does_not_attach_to_the_segment(channel):
    where = Address.parse(channel.address)
    path = f"/proc/{where.pid}/fd/{where.fd}"
    for flags in (os.O_RDONLY, os.O_RDWR):
        assert attack.as_user(lambda flags=flags: str(os.open(path, flags))) == "PermissionError"
    assert attack.as_user(lambda: str(os.open(path, os.O_RDWR)), uid=0).isdigit()  # as it would be
    assert attack.as_user(lambda: str(os.listdir(f"/proc/{where.pid}/fd"))) == "PermissionError"
    assert attack.as_user(lambda: str(os.listdir(f"/proc/{where.pid}/map_files"))) == "PermissionError"
    assert attack.as_user(lambda: Path(f"/proc/{where.pid}/mem").read_bytes().hex()) == "PermissionError"
    pidfd_getfd = 438  # the same number on every architecture

    def steal() -> str:
        libc = ctypes.CDLL(None, use_errno=True)
        got = libc.syscall(pidfd_getfd, os.pidfd_open(where.pid), where.fd, 0)
        return str(got if got >= 0 else os.strerror(ctypes.get_errno()))

    assert attack.as_user(steal) == "Operation not permitted"


def test_another_user_does_not_talk_to_the_broker(channel):
    where = Address.parse(channel.address)

    def connect() -> str:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(where.socket)
            return "connected"

    assert attack.as_user(connect) == "PermissionError"
    assert attack.as_user(connect, uid=0) == "connected"  # as it would be
    assert attack.as_user(lambda: str(os.listdir(Path(where.socket).parent))) == "PermissionError"
    # Only sockets with a path: those of the abstract namespace have no owner.
    ours = [line.split()[7] for line in Path("/proc/net/unix").read_text().splitlines() if where.socket in line]
    assert ours
    assert all(path.startswith("/") for path in ours)


def test_another_users_folder_in_the_place_of_ours(tmp_path, monkeypatch):
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    from tfos_fast.channel.host.processes import make_runtime_directory
    from tfos_fast.errors import SegmentError

    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, attack.NOBODY, attack.NOBODY)
    monkeypatch.setenv("TFOS_RUNTIME_DIR", str(theirs))
    with pytest.raises(SegmentError, match="not a private folder"):
        make_runtime_directory()


# ---- broken clients of this user ---------------------------------------------------------------------------------------------


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(st.data())
def test_well_typed_messages_without_sense(data):
    """A peer that breaks the protocol gets a TableError, and nothing else ever happens to the feed."""
    feed = Feed(4, form=data.draw(st.sampled_from([None, m.Form("columns", 8), m.Form("rows")])))
    roles = {b"w": "writer", b"v": "writer", b"r": "reader"}
    requests = attack.messages_of(m.Request)
    for _ in range(data.draw(st.integers(1, 12))):
        peer = data.draw(st.sampled_from(sorted(roles)))
        if peer not in feed.peers:
            feed.hello(peer, HELLO[roles[peer]])
        message = m.decode_request(m.encode(data.draw(requests)))
        try:
            feed.handle(peer, message)
        except TableError:
            feed.leave(peer, died=True)
        for _, answer in feed.outbox:
            m.encode(answer)
        feed.outbox.clear()
        assert sum(feed.table.counts().values()) == 4


def test_mutated_messages_to_a_live_broker():
    with broker_here(form=m.Form("columns", 8)) as broker:
        path = f"ipc://{Address.parse(broker.address).socket}"

        @hypothesis.settings(attack.LIVE, max_examples=150)
        @hypothesis.given(st.sampled_from(sorted(HELLO)), st.lists(attack.messages_of(m.Request), max_size=4), st.data())
        def tries(role: Any, messages: list[Any], data: Any) -> None:
            with attack.dealer(path) as client:
                client.send(m.encode(HELLO[role]))
                for message in messages:
                    body = m.encode(message)
                    client.send(data.draw(attack.mutated(body)) if data.draw(st.booleans()) else body)
                client.send(m.encode(m.AskStatus()))
                assert client.poll(10_000)

        tries()
        for body in (NESTED, b"", b"\xc1" * 1000, bytes(module._MAX_MESSAGE + 1)):
            with attack.dealer(path) as client:
                client.send(m.encode(HELLO["writer"]))
                client.send(body)
                client.send_multipart([body[:100], body[:100], b""])
        assert sum(status_of(broker.address).slots.values()) == broker.segment.n_slots


@pytest.mark.parametrize("opening", sorted(attack.OPENINGS))
def test_bytes_that_are_no_messages_to_a_live_broker(opening, channel):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(Address.parse(channel.address).socket)
        with contextlib.suppress(OSError):  # it hangs up
            client.sendall(attack.OPENINGS[opening])
        assert status_of(channel.address).writers == 1


def test_a_client_that_does_not_read_is_dropped(monkeypatch):
    monkeypatch.setattr(module, "_MOST_UNREAD", 100)
    with broker_here() as broker:
        with attack.dealer(f"ipc://{Address.parse(broker.address).socket}", rcvhwm=1, rcvbuf=4096) as deaf:
            deaf.send(m.encode(HELLO["writer"]))
            wait_for(lambda: broker.feed.peers)
            ask = m.encode(m.AskStatus())
            for _ in range(200_000):
                if deaf.poll(0, zmq.POLLOUT):
                    deaf.send(ask)
                if not broker.feed.peers:
                    break
            assert status_of(broker.address).writers == 0


def test_nothing_is_unpickled_by_a_broker(tmp_path):
    marker = tmp_path / "it ran"
    with broker_here(form=m.Form("rows")) as broker:
        broker.on_control = lambda name, body: b""
        for body in attack.bombs(marker, m.Request):
            with attack.dealer(f"ipc://{Address.parse(broker.address).socket}") as client:
                client.send(m.encode(HELLO["writer"]))
                client.send(body)
                client.poll(5000)
        status_of(broker.address)
    assert not marker.exists()


# ---- the sources -------------------------------------------------------------------------------------------------------------

#: Modules that know pickle, and what comes to them. What comes off a socket is unpickled by none of them.
PICKLE = {
    "tfos_fast/channel/untrusted/vetting.py": "pickles values of a remote feed, read by pickles.py, anew; it unpickles nothing",
    "tfos_fast/channel/writer/writer.py": "batches that Spark keeps of a stored RDD, in Spark's own task",
    "tfos_fast/values/dtypes.py": "pickles what stands for None in a column of objects; it unpickles nothing",
    "tfos_fast/compat/values.py": "what a program leaves in ctx.mgr, for the processes that the trainer forks",
    "tfos_fast/cluster/driver/infer.py": "results of the first rows, from Spark's own job",
    "tfos_fast/cluster/tasks/infer.py": "pickles results for Spark's own job",
    "tfos_fast/cluster/spark/closure.py": "main: for Spark's closure, and from the file that a task has written for a trainer",
    "tfos_fast/cluster/spark/connect_engine.py": "pickles tasks for Spark's closure; results of tasks, from Spark's own job",
    "tfos_fast/cluster/spark/probe.py": "pickles what an executor's look found, for Spark's own job",
    "src_cython/tfos_fast/native/column_writer.pyx": "pickles values for a slot",
    "src_cython/tfos_fast/native/pickled/batch.pyx": "batches that Spark keeps, as in writer/writer.py",
    "src_cython/tfos_fast/native/row_decoder.pyx": "values of a slot: shared memory of this user, on this host",
}
EXECUTES = re.compile(
    r"^\s*(?:from|import|cimport)\s+(?:pickle|cloudpickle|dill|marshal|shelve|jsonpickle)\b|\b(?:recv_pyobj|send_pyobj|allow_pickle=True)\b"
    r"|(?<![.\w])(?:eval|exec)\(",
    re.MULTILINE,
)


def test_who_may_know_pickle():
    found = set()
    for folder in ("tfos_fast", "src_cython"):
        for path in (ROOT / folder).rglob("*.py*"):
            if path.suffix in (".py", ".pyx", ".pxd", ".pxi") and EXECUTES.search(path.read_text()):
                found.add(str(path.relative_to(ROOT)))
    assert found == set(PICKLE), "give each module that executes what it reads a reason in PICKLE"
