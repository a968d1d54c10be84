"""Errors between the processes of a cluster: what becomes of an exception on its way to the driver, and of its name there.

An error travels as a :class:`~tfos_fast.cluster.protocol.messages.Failure` of a node, as the answer of a process that could not
start, as the words of a feed task about rows, or inside the text of Spark's own exception. Each of these has its two ends here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Protocol

from tfos_fast import errors
from tfos_fast.channel.protocol import messages as channel_messages
from tfos_fast.channel.protocol.failures import exception
from tfos_fast.cluster.protocol.messages import MAX_TEXT, Failure

# ---- a node's failure --------------------------------------------------------------------------------------------------------


def exception_of(failure: Failure, *others: Failure) -> errors.TfosError:
    """Return a node's failure as the exception it names; ``others`` happened at other nodes."""
    return exception(
        failure.kind,
        failure.summary,
        errors.NodeFailed,
        node=failure.node,
        host=failure.host,
        remote_traceback=failure.remote_traceback,
        log_tail=failure.log_tail,
        others=tuple(exception_of(other) for other in others),
        signal=failure.signal,
    )


def to_channel(failure: Failure) -> channel_messages.Failed:
    """Return what the node's broker sends its clients: the failure without the trainer's log."""
    return channel_messages.Failed(
        failure.kind, failure.summary, failure.node, failure.host, failure.remote_traceback, failure.signal
    )


# What a program sees when a node that it works with is gone: seldom the cause.
_CONSEQUENCES = re.compile(
    r"\b(UnavailableError|AbortedError|CancelledError|EOFError|BrokenPipeError|"
    r"Connection reset by peer|Socket closed|Broken pipe)\b"
)


def root_first(failures: list[Failure]) -> list[Failure]:
    """Return failures in the order of their arrival, but those that look like another node's loss last."""
    return sorted(failures, key=lambda failure: bool(_CONSEQUENCES.search(failure.remote_traceback)))


# ---- a process that could not start ------------------------------------------------------------------------------------------


class Answer(Protocol):
    """The first answer of a process: ``kind`` is the name of a class in tfos_fast.errors, empty when it has started."""

    @property
    def kind(self) -> str: ...

    @property
    def text(self) -> str: ...


def check_started(answer: Answer) -> None:
    """Raise the error of a process that could not start.

    Raises
    ------
    TfosError
    """
    if answer.kind:
        raise exception(answer.kind, answer.text, errors.ClusterError)


# ---- rows that a task cannot feed --------------------------------------------------------------------------------------------


def unfit_words(error: Exception) -> str:
    """Return how a task tells of rows that cannot be fed: a class and its text, see :func:`unfit`."""
    return f"{type(error).__name__}\n{str(error)[:MAX_TEXT]}"


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


# ---- a Spark job -------------------------------------------------------------------------------------------------------------

# In a task's traceback, or behind what a job was cancelled for (``cluster/driver/inferences.py``).
_OURS = re.compile(
    r"(?:^|because of )tfos_fast\.errors\.(\w+): (.*?)(?=\n\s*\n|\n\tat |\s+SQLSTATE: |\Z)", re.DOTALL | re.MULTILINE
)
_LOST = re.compile(
    r"Python worker exited unexpectedly[^\n]*|ExecutorLostFailure[^\n]*|Could not recover from a failed barrier[^\n]*"
)


def job_exception(error: Exception) -> Exception:
    """Return the exception for a failed Spark job: ours when a task raised one of ours or was lost, else Spark's error as it is.

    Ours is not chained to Spark's, which has the same sentence among a hundred lines of frames, but keeps it as ``spark_error``.
    """
    found = _OURS.findall(str(error))
    if found:
        name, text = found[-1]
        ours = exception(name, text.strip(), errors.ClusterError)
    elif lost := _LOST.search(str(error)):
        text = f"Spark gave up on a task that was lost: {lost.group().strip()}"
        ours = errors.TaskLost(f"{text} How often it tries one says spark.task.maxFailures (once with local[N])")
    else:
        return error
    ours.spark_error = error
    return ours
