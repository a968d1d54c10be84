"""Without a file descriptor left, what serves others goes on: coordinator, broker, agent's door, gateway, relay."""

from __future__ import annotations

import errno
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import zmq

from tests.support.helpers import broker_here, ended, gateway, in_thread, wait_for
from tfos_fast.channel import Channel
from tfos_fast.channel.host.descriptors import Descriptors, none_left
from tfos_fast.channel.host.processes import children, is_stopped, open_pidfd, started
from tfos_fast.channel.protocol import messages as m_channel
from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.identity import this_process
from tfos_fast.errors import ChannelError

SLEEPER = [sys.executable, "-c", "import time; time.sleep(100)"]


@contextmanager
def none() -> Iterator[Callable[[int], None]]:
    """This process has none left; the function that it gives lets go of so many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, most))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))

        def free(count: int) -> None:
            for _ in range(count):
                os.close(held.pop())

        yield free
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(SLEEPER)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


@contextmanager
def coordinator() -> Iterator[Coordinator]:
    it = Coordinator("127.0.0.1", "127.0.0.1")
    try:
        yield it
    finally:
        it.close()


def agent(to: Coordinator, name: str, context: zmq.Context[Any]) -> Any:
    dealer = context.socket(zmq.DEALER)
    dealer.curve_serverkey = to.keys.server_public
    dealer.curve_publickey, dealer.curve_secretkey = to.keys.client_public, to.keys.client_secret
    dealer.routing_id = m.routing_id(name, "token")
    dealer.linger = 0
    dealer.connect(to.keys.endpoint)
    return dealer


def test_it_is_said_once_and_again_when_there_are_some(caplog: Any):
    it = Descriptors("the driver", "no agent can connect")
    with caplog.at_level(logging.WARNING):
        assert it.look()
        with none() as free:
            assert not it.look()
            assert not it.look()
            it.met(OSError(errno.EMFILE, "no"))
            it.met(zmq.ZMQError(errno.ENFILE))
            assert caplog.text.count("no file descriptor left") == 1
            assert "ulimit -n is" in caplog.text
            assert "no agent can connect" in caplog.text
            free(2)
            assert it.look()
        assert caplog.text.count("has file descriptors again") == 1
    with pytest.raises(OSError, match="other"):
        it.met(OSError(errno.EINVAL, "other"))


def test_processes_that_cannot_be_looked_at_are_neither_stopped_nor_dead():
    with sleeper() as process:
        start = started(process.pid)
        with none() as free:
            assert not is_stopped(process.pid)
            assert children(os.getpid()) == []
            free(1)  # for the pidfd, and none to compare the start time with
            with pytest.raises(OSError, match="Too many open files") as found:
                open_pidfd(process.pid, start)
            assert none_left(found.value)
            with pytest.raises(OSError, match="Too many open files"):  # nothing was left open
                [os.open("/dev/null", os.O_RDONLY) for _ in range(2)]


def test_the_coordinator_goes_on_and_hears_of_ends_when_there_are_some_again(caplog: Any):
    """Silence of an agent made it look at the agent's process, for which none was left: its thread ended for good."""
    context = zmq.Context()
    with caplog.at_level(logging.WARNING), coordinator() as it, sleeper() as silent, sleeper() as process:
        first, second = agent(it, "worker:0", context), agent(it, "worker:1", context)
        first.send(m.encode(m.AgentHello("worker:0", "token", "h", this_process(silent.pid))))
        wait_for(lambda: "worker:0" in it.nodes)
        time.sleep(0.5)  # the second one has shaken hands
        who = m.encode(m.AgentHello("worker:1", "token", "h", this_process(process.pid)))
        with none() as free:
            with it.changed:
                it.nodes["worker:0"].connected -= 100  # silent for long
            second.send(who)
            wait_for(lambda: "worker:1" in it.nodes)
            wait_for(lambda: "no file descriptor left" in caplog.text)
            time.sleep(0.7)
            assert it._thread.is_alive()
            assert it.nodes["worker:1"].pidfd is None
            free(8)
            wait_for(lambda: it.nodes["worker:1"].pidfd is not None)
        process.kill()
        wait_for(lambda: len(it.failures) == 2)
        assert it._thread.is_alive()
        assert [failure.kind for failure in it.failures] == ["NodeLost"] * 2
        assert not any("the coordinator failed" in record.message for record in caplog.records)
    context.destroy(linger=0)


def test_an_end_that_was_not_watched_is_seen_when_there_are_some_again():
    context = zmq.Context()
    with coordinator() as it, sleeper() as process:
        dealer = agent(it, "worker:0", context)
        time.sleep(0.5)
        who = m.encode(m.AgentHello("worker:0", "token", "h", this_process(process.pid)))
        with none() as free:
            dealer.send(who)
            wait_for(lambda: "worker:0" in it.nodes)
            process.kill()
            free(8)
            wait_for(lambda: it.failures)
        assert [failure.kind for failure in it.failures] == ["NodeLost"]
    context.destroy(linger=0)


def test_a_broker_goes_on(caplog: Any):
    """What it calls in its loop may need a descriptor: the call comes again, and a request is refused by words."""
    calls: list[float] = []
    reader, writer = os.pipe()

    def call() -> None:
        calls.append(time.monotonic())
        if len(calls) < 4:
            raise OSError(errno.EMFILE, "Too many open files")
        broker.unwatch(reader)

    def control(name: str, body: bytes) -> bytes:
        raise zmq.ZMQError(errno.EMFILE)

    with caplog.at_level(logging.WARNING), broker_here(form=m_channel.Form("rows")) as broker:
        broker.on_control = control
        broker.watch(reader, call)
        os.write(writer, b"x")
        with (
            Channel.attach(broker.address) as channel,
            pytest.raises(ChannelError, match=r"cannot answer 'feed': .*Too many open files"),
        ):
            channel.control("feed", b"name")
        wait_for(lambda: len(calls) == 4)
        with Channel.attach(broker.address) as channel, channel.writer() as writes:
            writes.write_rows([1])
    assert caplog.text.count("no file descriptor left") == 1
    for fd in (reader, writer):
        os.close(fd)


def test_an_agent_has_as_many_as_it_may_and_its_trainer_as_many_as_before():
    program = (
        "import resource, subprocess, sys\n"
        "from tfos_fast.channel.host import descriptors\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))\n"
        "descriptors.make_room()\n"
        "asked = 'input(); import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])'\n"
        "child = subprocess.Popen([sys.executable, '-c', asked],\n"
        "    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)\n"
        "descriptors.as_before(child.pid)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], min(hard, descriptors.ENOUGH), child.communicate('x\\n')[0])\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert found[0] == found[1]
    assert found[2] == "100"


def test_a_gateway_goes_on():
    with Channel.create(memory="64k", slot_bytes="4k", form="rows", writers=0) as channel:
        known = set(children(os.getpid()))
        with gateway(channel.address) as address:
            (pid,) = set(children(os.getpid())) - known
            with Channel.attach(address) as far:
                with far.writer() as first:
                    first.write_rows([1])
                    before, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                    highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
                    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 2, most))  # for a connection, and not for its link
                    thread, out = in_thread(lambda: [far.writer().write_rows([2]) for _ in range(3)])
                    time.sleep(1)
                    first.write_rows([3])
                    resource.prlimit(pid, resource.RLIMIT_NOFILE, (before, most))
                    ended(thread)
                    assert out == [[1, 1, 1]] or isinstance(out[0], Exception)
                    first.write_rows([4])
                with far.writer() as again:
                    again.write_rows([5])
