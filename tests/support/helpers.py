"""Helpers of the channel's tests: real child processes that report named points over a pipe."""

from __future__ import annotations

import multiprocessing
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import zmq

from tfos_fast.channel import Channel
from tfos_fast.channel.broker.broker import Broker
from tfos_fast.channel.host.segment import Segment
from tfos_fast.channel.remote.client import RemoteAddress
from tfos_fast.channel.remote.gateway import GatewayConfig, spawn
from tfos_fast.cluster.protocol import handover as h
from tfos_fast.cluster.protocol.identity import this_process

SPAWN = multiprocessing.get_context("spawn")


class Child:
    """A spawned process and a pipe to it; ``say(point)`` there, ``hear()`` here."""

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=target, args=(theirs, *args), daemon=True)
        self.process.start()
        theirs.close()

    def hear(self, timeout: float = 30.0) -> Any:
        """The next thing it reports."""
        assert self.pipe.poll(timeout), f"child {self.process.pid} said nothing for {timeout} s"
        return self.pipe.recv()

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.join(10)
        assert not self.process.is_alive()

    def join(self) -> None:
        """Wait for a good end."""
        self.process.join(30)
        assert self.process.exitcode == 0, self.process.exitcode


@contextmanager
def child(target: Callable[..., None], *args: Any) -> Iterator[Child]:
    """A child that does not outlive the block."""
    process = Child(target, *args)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.join(10)
        process.pipe.close()


def write_images(pipe: Any, address: str, rows: int) -> None:
    with Channel.attach(address).writer() as writer:
        writer.write_rows((np.full(16, i, np.float32), i % 10) for i in range(rows))
    pipe.send("written")


def wait_for(condition: Callable[[], bool]) -> None:
    """Ten seconds at most."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run in a thread; what it returned or raised goes to the list."""
    out: list[Any] = []

    def run() -> None:
        try:
            out.append(work())
        except BaseException as error:
            out.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, out


def ended(thread: threading.Thread) -> None:
    """It ends within 15 seconds."""
    thread.join(15)
    assert not thread.is_alive()


def free(channel: Channel) -> int:
    """Free slots of the channel."""
    return channel.status()["slots"]["free"]


class broker_here:
    """A broker in a thread of this process, so that a test can be its owner."""

    def __init__(self, memory: int | str = "256k", slot_bytes: int | str = "4k", **options: Any) -> None:
        self.broker = Broker(Segment.create(memory, slot_bytes), **options)
        self.work: list[tuple[Callable[[], Any], threading.Event]] = []
        self.broker.every(0.005, self._work)
        self.broker.do = self.do  # type: ignore[attr-defined]
        self.broker.finish_epoch = self.finish_epoch  # type: ignore[attr-defined]

    def do(self, what: Callable[[], Any]) -> None:
        done = threading.Event()
        self.work.append((what, done))
        assert done.wait(10)

    def finish_epoch(self) -> None:
        """As when every partition is known to have ended: what writers sent on their way out comes before the mark."""
        wait_for(lambda: all(peer.role != "writer" for peer in list(self.broker.feed.peers.values())))
        self.do(self.broker.end_epoch)

    def _work(self) -> None:
        while self.work:
            what, done = self.work.pop(0)
            what()
            done.set()

    def __enter__(self) -> Any:
        self.thread = threading.Thread(target=self.broker.run, daemon=True)
        self.thread.start()
        return self.broker

    def __exit__(self, *exc: object) -> None:
        self.broker.stop()
        self.thread.join(10)
        assert not self.thread.is_alive(), "the broker's loop died or hangs"
        self.broker.close()


@contextmanager
def gateway(address: str) -> Iterator[RemoteAddress]:
    """A gateway on this host, through which remote writers come to the channel."""
    server_public, server_secret = zmq.curve_keypair()
    client_public, client_secret = zmq.curve_keypair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = spawn(GatewayConfig(address, listener.fileno(), server_secret.decode(), client_public.decode()))
        endpoint = f"127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield RemoteAddress(endpoint, server_public, client_public, client_secret)
    finally:
        process.kill()
        process.wait(10)


def agent_config(coordinator, index, executor):
    """Of an agent whose driver is this process."""
    keys = coordinator.keys
    return h.AgentConfig(
        name=f"worker:{index}",
        index=index,
        token=secrets.token_hex(4),
        memory="1m",
        slot_bytes="64k",
        endpoint=keys.endpoint,
        server_public=keys.server_public.decode(),
        client_public=keys.client_public.decode(),
        client_secret=keys.client_secret.decode(),
        driver=this_process(),
        executor=executor,
        log_level="WARNING",
    )


def inside(array: np.ndarray, reader: Any) -> bool:
    base = reader.segment.mapping.address
    return base <= array.ctypes.data and array.ctypes.data + array.nbytes <= base + reader.segment.size


def write_forever(pipe: Any, address: str, key: str = "k") -> None:
    writer = Channel.attach(address).writer()
    writer.open_partition(key, 0)

    def rows() -> Any:
        for i in range(10**9):
            if i == 5000:
                pipe.send("middle")
            yield (i, float(i))

    try:
        writer.write_rows(rows())
    except Exception as error:
        pipe.send((type(error).__name__, str(error), time.monotonic()))
