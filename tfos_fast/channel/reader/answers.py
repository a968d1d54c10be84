"""The reader's part about results: any thread gives them, also while another one waits for rows.

Only the thread that has the reader's lock sends messages. Another thread leaves its results in ``ResultWriter.given`` and wakes the
one that waits. Whoever lets the lock go looks there, so that nothing is left lying.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfos_fast.channel.codec.result_arrays import Block
from tfos_fast.channel.reader.acks import Acks
from tfos_fast.channel.reader.results import ResultWriter
from tfos_fast.errors import FormError


class Answering:
    """Takes the program's results."""

    if TYPE_CHECKING:
        _lock: Any
        _train: bool
        _terminated: bool
        _acks: Acks
        _results: ResultWriter
        _check_open: Any

    def write_results(self, results: list[Any] | Block) -> None:
        """Send results back, one for each row handed out, in the same order. Does not wait for a thread that reads.

        Parameters
        ----------
        results : list or Block
            See :func:`tfos_fast.channel.codec.result_arrays.to_results`. A thread that was handed rows gives the results of its
            own rows; another thread gives those of the oldest rows without one.

        Raises
        ------
        ValueError
            More results than rows without a result.
        FormError
            The feed is for training.
        """
        if self._train:
            raise FormError("results belong to inference; open the feed with train_mode=False")
        self._check_open()
        if self._lock.acquire(blocking=False):
            try:
                self._results.give(results)
                self._results.take()
            finally:
                self._lock.release()
        else:
            self._results.give(results, later=True)
            self._acks.wake()
        self._take_results()

    def _take_results(self) -> None:
        """Take the results that were given while another thread had the lock. If it still has it, it does so itself."""
        while self._results.given and self._lock.acquire(blocking=False):
            try:
                self._results.take()
            finally:
                self._lock.release()

    def _check_answered(self) -> None:
        missing = self._results.owed
        self._results.forgive()
        if missing and not self._terminated:
            raise FormError(f"{missing} rows of an inference were read and got no result; give batch_results() one for each row")
