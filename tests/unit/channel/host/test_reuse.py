"""Mappings and connections that a process keeps from one use to the next, and lets go of when their owner ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.helpers import child, wait_for
from tfos_fast.channel import Channel
from tfos_fast.channel.host import reuse
from tfos_fast.channel.host.segment import Segment
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.address import Address
from tfos_fast.errors import AddressError, ChannelError

OWNER = """
import sys
from tfos_fast.channel.host.segment import Segment
segment = Segment.create("1m", "64k")
print(segment.fd, segment.id.hex(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner():
    """A process that holds a segment; its id, and the segment's descriptor and identity."""
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    fd, identity = process.stdout.readline().split()
    yield process.pid, int(fd), bytes.fromhex(identity)
    process.kill()
    process.communicate()


@pytest.fixture
def keeping(monkeypatch):
    monkeypatch.setattr(reuse, "_keeps", False)
    reuse.keep_connections()


def in_maps() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:tfos_fast")


def test_a_mapping_lasts_from_one_connection_to_the_next(keeping, owner):
    first = Segment.open(*owner)
    first.window(3)
    where = first.mapping.address
    first.close()
    assert in_maps() == 1
    second = Segment.open(*owner)
    assert second.mapping.address == where
    assert second._seen == {3}
    second.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_it_goes_with_its_owner(keeping, owner, how):
    Segment.open(*owner).close()
    held = Segment.open(*owner)
    os.kill(owner[0], how)
    while reuse._kept:
        time.sleep(0.001)
    assert bytes(held.window(0)) == bytes(held.slot_bytes)  # who still uses it may go on
    held.close()
    assert in_maps() == 0


def test_nothing_is_kept_unasked(monkeypatch, owner):
    monkeypatch.setattr(reuse, "_keeps", False)
    Segment.open(*owner).close()
    assert in_maps() == 0


def sockets() -> int:
    return sum("socket:" in os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd))


def _is_link(fd: str) -> bool:
    return Path(f"/proc/self/fd/{fd}").is_symlink()


@pytest.fixture
def channel(keeping):
    """A channel that a writer has used, and a handle of it."""
    with Channel.create("1m", slot_bytes="64k", form="columns", writers=0) as made:
        identity = Address.parse(made.address).segment_id
        with Channel.attach(made.address) as other:
            with other.writer() as writer:
                writer.write_rows([1, 2, 3])
            yield other, identity
    wait_for(lambda: not reuse._kept)
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name == "tfos_fast kept"])


def test_writers_come_and_go_over_one_connection(channel):
    other, identity = channel
    before = sockets()
    for number in range(10):
        assert reuse.rests(identity)
        with other.writer() as writer:
            assert writer.entered["writers"] == 1  # who rests is no writer
            assert not reuse.rests(identity)
            writer.open_partition(f"p{number}")
            writer.write_rows([10 * number])
    assert sockets() == before
    wait_for(lambda: other.status()["writers"] == 0)
    other.end_feed()
    with other.reader() as reader:
        rows = [row for batch in reader.batches(4) for row in batch["c0"].tolist()]
    assert rows == [1, 2, 3, *range(0, 100, 10)]


def test_the_broker_has_heard_all_before_a_connection_rests(channel):
    other, identity = channel
    writer = other.writer()
    writer.write_rows([4])
    writer.end_partition()
    connection = writer._conn
    writer.close()
    assert reuse.rests(identity)
    assert connection._status.rows_published == 4  # its answer came behind the rows
    with other.reader() as reader:
        assert reader.next_batch(4, timeout=5.0).rows == 4
        writer = other.writer()
        writer.write_rows([5, 6, 7, 8])
        writer.end_partition()
        connection = writer._conn
        assert reader.next_batch(4, timeout=5.0).rows == 4
        assert reader.next_batch(4, timeout=0.1) is None
        writer.close(wait=True)
        assert connection._status is None  # that they were taken says as much


def test_two_at_once_have_two_connections(channel):
    other, identity = channel
    with other.writer() as one, other.writer() as two:
        assert {one.entered["writers"], two.entered["writers"]} == {1, 2}
        one.write_rows([4])
        two.write_rows([5])
    assert len(reuse._kept[identity].lines) == 2


def test_what_was_meant_for_the_last_user_is_not_heard(channel):
    other, _ = channel
    writer = other.writer()
    writer.open_partition("left")
    for _ in range(50):  # slots that are granted to nobody, when it has left
        writer._conn.send(m.Want("input"))
    writer._conn.send(m.AskStatus())
    writer.close()
    with other.writer() as writer:
        assert writer._conn._status is None
        assert not writer._credits.granted
        writer.write_rows([4])
    other.end_feed()
    with other.reader() as reader:
        assert sorted(row for batch in reader.batches(4) for row in batch["c0"].tolist()) == [1, 2, 3, 4]


def test_who_met_an_error_does_not_leave_its_connection_to_others(channel):
    other, identity = channel
    writer = other.writer()
    writer._conn.send(m.Publish(0, 0, 1, 1, 0))  # what nobody may say
    with pytest.raises(ChannelError, match="protocol error"):
        writer.open_partition("p")
    writer.close()
    assert not reuse.rests(identity)
    with other.writer() as writer:
        assert writer.entered["writers"] == 1


def test_a_connection_at_rest_goes_with_the_broker(channel):
    other, identity = channel
    assert reuse.rests(identity)
    before = sockets()
    broker = Address.parse(other.address).pid
    os.kill(broker, signal.SIGKILL)
    wait_for(lambda: identity not in reuse._kept)
    wait_for(lambda: sockets() < before)
    with pytest.raises(AddressError, match=r"gone|no segment"):
        other.writer()


def test_a_forked_process_makes_connections_of_its_own(channel):
    other, identity = channel
    line = reuse._kept[identity].lines[0]
    line.pid += 1  # as the child of a fork sees it
    assert not reuse.rests(identity)
    with other.writer() as writer:
        assert writer._conn._socket is not line.socket
    line.pid -= 1
    line.close()


def test_who_dies_at_rest_is_not_missed(keeping):
    with Channel.create("1m", slot_bytes="64k", form="columns", writers=0) as made, made.writer() as writer:
        with child(write_and_rest, made.address) as other:
            other.process.join(30)
            assert other.process.exitcode == -signal.SIGKILL
        writer.write_rows([2])
        writer.end_partition()
        writer.close()  # it rests, so the broker has the row before the end of the feed
        made.end_feed()
        with made.reader() as reader:
            assert [row for batch in reader.batches(4) for row in batch["c0"].tolist()] == [1, 2]


def write_and_rest(pipe, address):
    reuse.keep_connections()
    with Channel.attach(address).writer() as writer:
        writer.write_rows([1])
    assert reuse.rests(Address.parse(address).segment_id)
    os.kill(os.getpid(), signal.SIGKILL)  # nothing that was written may still be in this process
