"""What a trainer prints: passed on to the executor's log, and its last lines kept for the error that may come."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import termios
import threading
import time
from io import FileIO

KEPT = 16 << 10  # bytes
LINES = 40


class LogTail:
    """Passes on what is printed, in a thread: whoever is slow to take it holds up the program that prints, and not the agent.

    Parameters
    ----------
    source : int
        File descriptor to read; closed at its end.
    target : int
        File descriptor of the log.
    """

    def __init__(self, source: int, target: int = 2) -> None:
        self._source = source
        self._target = target
        self._kept = b""
        self._cut = False
        self._ended = False
        self._reading = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="tfos-log", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        printed = select.poll()
        printed.register(self._source, select.POLLIN)
        with open(self._source, "rb", buffering=0) as source:
            while printed.poll() and (chunk := self._read(source)):
                # An executor that dies takes the other end of its log along.
                with contextlib.suppress(OSError):
                    while chunk:
                        chunk = chunk[os.write(self._target, chunk) :]

    def _read(self, source: FileIO) -> bytes:
        with self._reading:  # what has left the pipe is kept before anybody finds the pipe empty
            chunk: bytes = source.read(KEPT)
            kept = self._kept + chunk
            self._cut = self._cut or len(kept) > KEPT
            self._kept = kept[-KEPT:]
            self._ended = not chunk
            return chunk

    def catch_up(self, seconds: float) -> None:
        """Wait until what has been printed by now is among what is kept."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with self._reading:
                if self._ended or not _waiting(self._source):
                    return
            time.sleep(0.001)

    def wait(self, seconds: float) -> None:
        """Wait for the end of what is printed: it comes with the death of all who print."""
        self._thread.join(seconds)

    def tail(self, before: str = "") -> str:
        """The last lines; with ``before`` only what was printed before this text, which is told elsewhere."""
        text = self._kept.decode(errors="replace")
        if self._cut:
            text = text.partition("\n")[2]
        if before and (at := text.rfind(before.strip())) >= 0:
            text = text[:at]
        return "\n".join(text.strip().splitlines()[-LINES:])


def _waiting(fd: int) -> int:
    """Bytes in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]
