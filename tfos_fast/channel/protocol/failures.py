"""Errors on the wire: the name of a class in :mod:`tfos_fast.errors`, a text, and where a node failed."""

from __future__ import annotations

from typing import Any

from tfos_fast import errors
from tfos_fast.channel.protocol import messages as m


def exception(kind: str, text: str, otherwise: type[errors.TfosError], *, signal: int = 0, **details: Any) -> errors.TfosError:
    """Return the exception that a name stands for.

    Parameters
    ----------
    kind : str
        The name of a class in :mod:`tfos_fast.errors`.
    text : str
    otherwise : type
        The class for any other name.
    signal : int
        Kept by :class:`~tfos_fast.errors.NodeKilled` and its subclasses.
    **details
        Kept by :class:`~tfos_fast.errors.NodeFailed` and its subclasses: node, host, remote_traceback, log_tail and others.
    """
    found = errors.named(kind, otherwise)
    if issubclass(found, errors.NodeKilled):
        return found(text, signal=signal, **details)
    return found(text, **details) if issubclass(found, errors.NodeFailed) else found(text)


def to_exception(message: m.Failed | m.Refused) -> errors.TfosError:
    """Return the exception that a broker's message names."""
    if isinstance(message, m.Refused):
        return exception(message.kind, message.text, errors.ChannelError)
    return exception(
        message.kind, message.text, errors.ChannelError,
        node=message.node, host=message.host, remote_traceback=message.remote_traceback, signal=message.signal,
    )  # fmt: skip


def to_failed(error: Exception) -> m.Failed:
    """Return the message that ends a connection because of this error."""
    return m.Failed(type(error).__name__, str(error))


def to_refused(error: Exception) -> m.Refused:
    """Return the message that refuses a request because of this error."""
    return m.Refused(type(error).__name__, str(error))
