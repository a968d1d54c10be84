"""Spark actions in background threads that can be cancelled, and what their errors mean."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from tfos_fast import errors
from tfos_fast.cluster.protocol.messages import Failure
from tfos_fast.cluster.spark.engine import Engine


class SparkJob:
    """One Spark action, run in a thread of its own under a job group of its own.

    Parameters
    ----------
    engine : Engine
    description : str
        For Spark's UI.
    action : callable
        Runs the action and returns its result.
    changed : threading.Condition
        Notified when the action is over.
    """

    def __init__(self, engine: Engine, description: str, action: Callable[[], Any], changed: threading.Condition) -> None:
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None
        self.group = f"tfos_fast-{secrets.token_hex(6)}"
        self._engine = engine
        self._description = description
        self._action = action
        self._changed = changed
        # Local properties (scheduler pool and others) of the calling thread hold in the job, too.
        self._thread = engine.thread(self._run, f"tfos-job-{description}")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._engine.begin(self.group, self._description)
            try:
                self.result = self._action()
            finally:
                self._engine.end(self.group)
        except Exception as error:  # noqa: BLE001  # whatever the action raises is for whoever waits
            self.error = error
        finally:
            with self._changed:
                self.done = True
                self._changed.notify_all()

    def partitions(self) -> int | None:
        """How many tasks feed, once the first of them runs: those of the last stage, whichever others its data needs."""
        return self._engine.partitions(self.group)

    def unlaunched(self) -> int:
        """How many of these tasks Spark has not launched yet, as far as it is known."""
        return self._engine.unlaunched(self.group)

    def cancel(self, wait: float = 1.0) -> None:
        """Cancel the job; its tasks' Python workers are killed by Spark."""
        deadline = time.monotonic() + wait
        while not self.done and time.monotonic() < deadline:
            # Again and again: a job that its thread has not yet submitted is not in the group.
            self._engine.cancel(self.group)
            self._thread.join(0.2)


def unfit(kind: str, text: str) -> errors.TfosError:
    """Return what a feed task told of rows that cannot be fed as the exception that it names."""
    kinds: dict[str, type[errors.TfosError]] = {each.__name__: each for each in (errors.RowTooLarge, errors.SourceError)}
    return kinds.get(kind, errors.SchemaMismatch)(text)


def check_rows(results: Iterable[Any]) -> None:
    """Raise the error of the first feed task whose rows could not be fed; ``results``: what these tasks returned.

    Raises
    ------
    SchemaMismatch, RowTooLarge, SourceError
    """
    for result in results:
        if result.error:
            raise unfit(*result.error.split("\n", 1))


def exception_of(failure: Failure, *others: Failure) -> errors.TfosError:
    """A node's failure as the exception it names; ``others`` happened at other nodes."""
    kind = errors.named(failure.kind, errors.NodeFailed)
    if not issubclass(kind, errors.NodeFailed):
        return kind(failure.summary)
    what: dict[str, Any] = {
        "node": failure.node,
        "host": failure.host,
        "remote_traceback": failure.remote_traceback,
        "log_tail": failure.log_tail,
        "others": tuple(exception_of(other) for other in others),
    }
    if issubclass(kind, errors.NodeKilled):
        what["signal"] = failure.signal
    return kind(failure.summary, **what)


# What a program sees when a node that it works with is gone: seldom the cause.
_CONSEQUENCES = re.compile(
    r"\b(UnavailableError|AbortedError|CancelledError|EOFError|BrokenPipeError|"
    r"Connection reset by peer|Socket closed|Broken pipe)\b"
)


def root_first(failures: list[Failure]) -> list[Failure]:
    """In the order in which they came, but what looks like another node's loss goes behind what does not."""
    return sorted(failures, key=lambda failure: bool(_CONSEQUENCES.search(failure.remote_traceback)))


# In a task's traceback, or behind what a job was cancelled for (``cluster/driver/inferences.py``).
_OURS = re.compile(
    r"(?:^|because of )tfos_fast\.errors\.(\w+): (.*?)(?=\n\s*\n|\n\tat |\s+SQLSTATE: |\Z)", re.DOTALL | re.MULTILINE
)
_LOST = re.compile(
    r"Python worker exited unexpectedly[^\n]*|ExecutorLostFailure[^\n]*|Could not recover from a failed barrier[^\n]*"
)


def job_exception(error: Exception) -> Exception:
    """The exception for a failed Spark job: ours when a task raised one of ours or was lost, else Spark's error as it is.

    Ours is not chained to Spark's, which has the same sentence among a hundred lines of frames, but keeps it as ``spark_error``.
    """
    found = _OURS.findall(str(error))
    if found:
        name, text = found[-1]
        ours = errors.named(name, errors.ClusterError)(text.strip())
    elif lost := _LOST.search(str(error)):
        text = f"Spark gave up on a task that was lost: {lost.group().strip()}"
        ours = errors.TaskLost(f"{text} How often it tries one says spark.task.maxFailures (once with local[N])")
    else:
        return error
    ours.spark_error = error
    return ours
