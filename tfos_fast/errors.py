"""Every exception that tfos_fast raises, in one tree under :class:`TfosError`.

Each class also derives from the builtin that a caller would expect (``ValueError`` for bad data, ``TimeoutError`` for a wait that
ended, ...), so code that knows nothing of this library still handles them. A message says what was found, what is needed and
which setting changes it.
"""

from __future__ import annotations

from typing import Any


class TfosError(Exception):
    """Base of every exception of this library.

    Attributes
    ----------
    spark_error : Exception or None
        Of an error that a Spark task met: Spark's own exception, which has the task's traceback and is long. It is not chained.
    """

    spark_error: Exception | None = None


class MissingDependency(TfosError, ImportError):
    """A package or program that this operation needs is not installed."""


class NotThere(TfosError, NotImplementedError):
    """A name of TensorFlowOnSpark that tfos_fast does not have; the message says what stands for it."""


class UnsupportedPlatform(TfosError, ImportError):
    """tfos_fast needs Linux (memfd, pidfd, eventfd)."""


# ---- the channel -------------------------------------------------------------------------------------------------------------


class ChannelError(TfosError):
    """Base of the errors of the shared-memory channel."""


class SegmentError(ChannelError, OSError):
    """A segment could not be made, opened or verified."""


class NotEnoughMemory(SegmentError, MemoryError):
    """The segment does not fit into the memory that this process may use."""


class StoreFull(ChannelError, OSError):
    """The rows that ``keep="disk"`` keeps do not fit: its limit is reached, or the disk is full."""


class AddressError(ChannelError, ValueError):
    """A channel address is malformed, or nothing of this user listens behind it on this host."""


class FormError(ChannelError, ValueError):
    """The reader asked for data in a way that does not fit the form in which the feed was opened."""


class RowTooLarge(ChannelError, ValueError):
    """One row needs more bytes than a slot has."""


class SchemaMismatch(ChannelError, ValueError):
    """A row does not fit the columns of the feed; the message names partition, row, column, expected and found."""


class ChannelClosed(ChannelError, RuntimeError):
    """The channel, writer or reader was closed, or the other side has shut the feed down."""


class Yielded(ChannelError):
    """A feed task that only waits ends early, since another feed needs its place; the rest of its partition is fed later."""


class Elsewhere(ChannelError):
    """A feed task's partition is to go to another node of the same host, which has nothing; the message is its name."""


class Fenced(ChannelError, RuntimeError):
    """A newer attempt at the same partition has taken this writer's place."""


class PeerDied(ChannelError, ConnectionError):
    """A process on the other side of the channel is gone."""


class BrokerDied(PeerDied):
    """The broker (in a cluster: the node agent) is gone."""


class ReaderDied(PeerDied):
    """The reader (in a cluster: the trainer) died before it took every row."""


class WriterDied(PeerDied):
    """A writer died in the middle of a partition and nobody finished it."""


class NonDeterministicPartition(ChannelError, ValueError):
    """A partition came out different when it was computed again, so that what was delivered of it cannot be continued."""


class StallTimeout(ChannelError, TimeoutError):
    """Nothing moved for as long as the stall timeout; the message says who waits for whom."""


# ---- the cluster -------------------------------------------------------------------------------------------------------------


class ClusterError(TfosError):
    """Base of the errors of the lifecycle: reserve, start, feed, shutdown."""


class NotEnoughSlots(ClusterError, ValueError):
    """Spark has fewer task slots than nodes were asked for."""


class NotEnoughGpus(ClusterError, ValueError):
    """The nodes of a host were asked to have more GPUs than it has."""


class SettingRefused(ClusterError, ValueError):
    """A setting of Spark makes it impossible for nodes to live on its executors."""


class VersionMismatch(ClusterError, RuntimeError):
    """Python, or a library, is another one on executors than in the driver, and the two do not work together."""


class NeedsSparkContext(ClusterError, TypeError):
    """Spark Connect does not have what was asked for; a SparkContext has."""


class CoordinatorUnreachable(ClusterError, ConnectionError):
    """Executors cannot reach the coordinator in the driver."""


class PreflightFailed(ClusterError, RuntimeError):
    """Several things stand in the way of a cluster; the message has a line for each.

    ``problems`` holds an exception for each, of the class that is raised when it is the only one.
    """

    def __init__(self, message: str, problems: tuple[TfosError, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class UnevenExecutors(ClusterError, ValueError):
    """Executors have different numbers of cores, so Spark cannot put one node on each."""


class RoleError(ClusterError, ValueError):
    """Roles that do not add up, or something that a node's role does not have."""


class PortUnavailable(ClusterError, OSError):
    """None of the ports that were prescribed can be had."""


class MainNotPicklable(ClusterError, TypeError):
    """The user's ``main`` or its arguments cannot be sent to the executors."""


class NoNodeOnHost(ClusterError, RuntimeError):
    """A feed task runs on a host that has no live node of the cluster."""


class SourceError(ClusterError, ValueError):
    """Files that are to be fed are not there, cannot be read, or have no such columns."""


class TaskLost(ClusterError, ConnectionError):
    """Spark lost a task of ours, its Python worker or executor died, as often as it tries one."""


class NodeFailed(ClusterError, RuntimeError):
    """A node of the cluster failed.

    Parameters
    ----------
    message : str
        What happened, in one sentence.
    node : str
        The node's name, for example ``worker:1``.
    host : str
        The host it ran on.
    remote_traceback : str
        The traceback as the node's process printed it; empty when it was killed.
    log_tail : str
        The last lines that its trainer printed.
    others : tuple of Exception
        What happened at other nodes, in order; most often a consequence.
    """

    def __init__(
        self,
        message: str,
        *,
        node: str = "",
        host: str = "",
        remote_traceback: str = "",
        log_tail: str = "",
        others: tuple[TfosError, ...] = (),
    ) -> None:
        self.summary = message
        self.node = node
        self.host = host
        self.remote_traceback = remote_traceback
        self.log_tail = log_tail
        self.others = others
        words = message.removeprefix(f"{node} on {host}: ")
        same = [other for other in others if isinstance(other, NodeFailed) and other._words == words]
        parts = [message]
        if same:
            parts.append(f"The same at {', '.join(f'{other.node} on {other.host}' for other in same)}")
        parts += [f"And then: {getattr(other, 'summary', other)}" for other in others if other not in same]
        if remote_traceback:
            parts.append(f"Traceback on {node} ({host}):\n{_without_end(remote_traceback, message)}")
        if log_tail:
            parts.append(f"Last lines of the log of {node} ({host}):\n{log_tail}")
        super().__init__("\n\n".join(parts))

    @property
    def _words(self) -> str:
        """What happened, without where."""
        return self.summary.removeprefix(f"{self.node} on {self.host}: ")


def _without_end(traceback: str, message: str) -> str:
    """The frames of a traceback, without the exception's own words where the message ends with them."""
    lines = traceback.rstrip().split("\n")
    for count in range(message.count("\n") + 1, 0, -1):
        end = "\n".join(lines[-count:])
        if end and len(lines) > count and message.endswith(end):
            return "\n".join(lines[:-count])
    return traceback


class NodeKilled(NodeFailed):
    """A node's process ended by a signal, or without saying why.

    ``signal`` is the signal's number, 0 when there was none.
    """

    def __init__(self, message: str, *, signal: int = 0, **what: Any) -> None:
        super().__init__(message, **what)
        self.signal = signal


class NodeLost(NodeKilled):
    """A node's agent or executor is gone, or was not heard of for too long; its trainer with it."""


class ClusterTimeout(ClusterError, TimeoutError):
    """A step of the lifecycle did not end in the time it was given."""


#: The exceptions that a message or Spark's text may name.
NAMED = {name: kind for name, kind in list(vars().items()) if isinstance(kind, type) and issubclass(kind, TfosError)}


def named(name: str, otherwise: type[TfosError]) -> type[TfosError]:
    """Return the exception class of this name, of those in :data:`NAMED`; ``otherwise`` for any other name.

    A name that comes from a process elsewhere chooses among exceptions, and finds nothing else in this module.

    >>> named("StallTimeout", TfosError).__name__
    'StallTimeout'
    """
    return NAMED.get(name, otherwise)
