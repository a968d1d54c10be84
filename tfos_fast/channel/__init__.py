"""The shared-memory queue on its own: no Spark, no TensorFlow."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfos_fast.channel.channel import Channel
    from tfos_fast.channel.protocol.messages import Form
    from tfos_fast.channel.reader.reader import Reader
    from tfos_fast.channel.writer.writer import Writer

# Lazily: the compiled packer imports this package's schema and layout, and the writer imports the packer.
_HOMES = {"Channel": "channel", "Form": "protocol.messages", "Reader": "reader.reader", "Writer": "writer.writer"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Channel", "Form", "Reader", "Writer"]
