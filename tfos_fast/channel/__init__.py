"""The shared-memory queue on its own: no Spark, no TensorFlow."""

from tfos_fast.channel.channel import Channel
from tfos_fast.channel.messages import Form
from tfos_fast.channel.reader import Reader
from tfos_fast.channel.writer import Writer

__all__ = ["Channel", "Form", "Reader", "Writer"]
