"""The reader's part in going in step: no batch is handed out before all nodes can do its step, none is left out of the last.

The next batch is made while its step is waited for, so that slots keep moving; it is handed out when the step is agreed on. While
rows abound the agreement is some steps ahead, and nothing waits.
"""

from __future__ import annotations

from collections.abc import Callable

from tfos_fast.channel.reader.batch import AnyBatch, Batch, Source
from tfos_fast.channel.reader.reader import Reader


class Stepper:
    """Batches of one epoch in step with other nodes; then None, and the next epoch.

    Parameters
    ----------
    reader : Reader
        It goes in step (``Reader.go_in_step``).
    take : callable
        ``take(most)`` gives the next batches, does not wait, and reads to the end of the epoch.
    forget : callable
        Drops what ``take`` holds back.
    """

    def __init__(self, reader: Reader, take: Source, forget: Callable[[], None]) -> None:
        assert reader.gate is not None
        self._reader = reader
        self._gate = reader.gate
        self._take = take
        self._forget = forget
        self._next: AnyBatch | None = None

    def __call__(self, most: int) -> AnyBatch | None:
        """The next batches, ``most`` at most. No rows: a step in which this node pads. None: the epoch has ended."""
        reader, gate = self._reader, self._gate
        pace = gate.pace
        while reader.begin_steps():
            seen = gate.state
            if gate.over:
                break
            if self._next is None and not reader.at_end:
                item = self._take(max(1, min(most, gate.room)))
                if item is None:
                    reader.at_end = True
                elif item.rows and not (pace.drop and item.rows < pace.batch):
                    self._next = item
                elif item.rows:
                    continue
            if gate.room > 0:
                if self._next is not None:
                    item, self._next = self._next, None
                    gate.done += -(-item.rows // pace.batch)
                    return item
                if pace.uneven == "pad":
                    gate.done += 1
                    return Batch({}, 0)
            if reader.at_end and not gate.state[2]:
                break  # the feed is over, or nobody fed anything in this epoch
            # Looking at the gate after the batch would miss word that came in between.
            reader.wait_steps(seen, rows=self._next is None)
        self._next = None
        self._forget()
        reader.end_steps()
        return None
