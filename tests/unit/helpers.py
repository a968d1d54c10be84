"""Helpers of the channel's tests: real child processes that report named points over a pipe."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tfos_fast.channel import Channel

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
