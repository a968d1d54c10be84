"""Checkpoints: what a reader's commit or position covers, asked of the broker while another thread may wait for rows."""

from __future__ import annotations

import threading
from typing import Any

from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.reader.position import Trail
from tfos_fast.channel.reader.row_buffer import RowBuffer
from tfos_fast.channel.transport.local import LocalConnection
from tfos_fast.errors import FormError


class Checkpoints:
    """A reader's words about checkpoints. They go over a connection of their own, since the reader's may be waiting.

    Parameters
    ----------
    address : str
    trail : Trail
        The reader's.
    rows : RowBuffer
        Rows that the trail counts and nobody was handed yet.
    train : bool
    """

    def __init__(self, address: str, trail: Trail, rows: RowBuffer, *, train: bool) -> None:
        self._address = address
        self._trail = trail
        self._rows = rows
        self._train = train
        self._conn: LocalConnection | None = None
        self._lock = threading.Lock()

    def commit(self, rows: int | None, epoch: int | None, *, ends: bool) -> None:
        """See :meth:`Reader.commit <tfos_fast.channel.reader.reader.Reader.commit>`; ``ends``: the reader stops at ends of an
        epoch.
        """
        with self._lock:
            rows, counts = self._handed(rows)
            self._ask(m.Commit, m.Committed, epoch, ends, counts)
            self._trail.committed(rows)

    def position(self, rows: int | None, epoch: int | None, *, ends: bool) -> tuple[int, dict[int, dict[str, list[Any]]]]:
        """See :meth:`Reader.position <tfos_fast.channel.reader.reader.Reader.position>`."""
        with self._lock:
            _, counts = self._handed(rows)
            answer = self._ask(m.AskPosition, m.Position, epoch, ends, counts)
            return answer.epoch, answer.rows

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._conn is not None:
            self._conn.close()

    def _handed(self, rows: int | None) -> tuple[int, dict[int, int]]:
        if not self._train:
            raise FormError("a commit is for training: an inference has its results")
        rows = self._trail.total - len(self._rows) if rows is None else rows
        try:
            return rows, self._trail.counts(rows)
        except ValueError as error:
            raise FormError(f"no checkpoint of so long ago can be committed: {error}") from None

    def _ask(self, ask: Any, answer: type[Any], epoch: int | None, ends: bool, counts: dict[int, int]) -> Any:
        if self._conn is None:
            self._conn = LocalConnection(self._address, "control", None, stall_timeout=86400.0)
        epoch = self._trail.epoch if epoch is None else epoch
        self._conn.send(ask(epoch, ends, list(counts.items())))
        return self._conn.ask(answer, "the broker to note what a checkpoint covers")
