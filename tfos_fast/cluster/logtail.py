"""What a trainer prints: passed on to the executor's log, and its last lines kept for the error that may come."""

from __future__ import annotations

import contextlib
import os
import threading

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
        self._thread = threading.Thread(target=self._run, name="tfos-log", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with open(self._source, "rb", buffering=0) as source:
            while chunk := source.read(KEPT):
                kept = self._kept + chunk
                self._cut = self._cut or len(kept) > KEPT
                self._kept = kept[-KEPT:]
                # An executor that dies takes the other end of its log along.
                with contextlib.suppress(OSError):
                    while chunk:
                        chunk = chunk[os.write(self._target, chunk) :]

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
