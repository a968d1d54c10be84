"""What the broker has told a writer: which slots it may fill, and what is wanted of it. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from tfos_fast.channel.protocol import messages as m


@dataclass
class Credits:
    """A writer's slots and orders.

    Attributes
    ----------
    granted : deque of int
        Slots that may be filled, in this order.
    wanted : bool
        One was asked for, and has not come.
    flush : bool
        The reader waits: what is packed is to be published.
    leave : bool
        Another feed needs the place of this task.
    terminated : bool
        The reader wants no more rows.
    """

    granted: deque[int] = field(default_factory=deque)
    wanted: bool = False
    flush: bool = False
    leave: bool = False
    terminated: bool = False

    def hear(self, message: Any) -> bool:
        """Take a message; False when it is about something else."""
        if isinstance(message, m.Granted):
            self.granted.extend(message.slots)
            self.wanted = False
        elif isinstance(message, m.Flush):
            self.flush = True
        elif isinstance(message, m.Yield):
            self.leave = message.on
        elif isinstance(message, m.Terminated):
            self.terminated = True
        else:
            return False
        return True
