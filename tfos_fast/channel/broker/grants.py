"""Who gets the next free slot. Pure; the broker's loop changes it.

Peers that ask wait in line, one line for each pool of slots. A slot goes first to who has none in hand. Spare slots are for speed:
they go only to who runs low, when nobody else waits and enough are free. While slots abound a writer gets several at once: in full
swing it neither waits for answers nor costs the broker a message for each slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tfos_fast.channel.broker.slot_table import SlotTable
from tfos_fast.channel.protocol.messages import INPUT, OUTPUT

_IN_HAND, _MANY_IN_HAND = 4, 8  # slots granted to one peer at most; an eighth of many
_FEW = 4  # of few slots so many stay free, or half of them
_LOW = 2  # slots in hand, the one that is being filled included, at which it gets spare ones


class Grants:
    """The lines of one feed.

    Parameters
    ----------
    table : SlotTable
    send : callable
        ``send(peer, slots, pool)``: tell the peer what it was granted.
    """

    def __init__(self, table: SlotTable, send: Callable[[bytes, list[int], str], None]) -> None:
        self._table = table
        self._send = send
        self._lines: dict[str, deque[bytes]] = {INPUT: deque(), OUTPUT: deque()}

    def waiting(self, pool: str = INPUT) -> tuple[bytes, ...]:
        """Who waits, the first in line first."""
        return tuple(self._lines[pool])

    def want(self, peer: bytes, pool: str) -> None:
        """Join the line, if not in it."""
        if peer not in self._lines[pool]:
            self._lines[pool].append(peer)

    def forget(self, peer: bytes) -> None:
        """Leave the lines."""
        for line in self._lines.values():
            if peer in line:
                line.remove(peer)

    def serve(self) -> None:
        """Grant what can be granted now."""
        for pool, line in self._lines.items():
            for _ in range(len(line)):
                if self._table.available(pool) <= 0:
                    break
                peer = line.popleft()
                slots = self._slots(peer, pool, alone=not line)
                if slots:
                    self._send(peer, slots, pool)
                else:
                    line.append(peer)

    def _slots(self, peer: bytes, pool: str, *, alone: bool) -> list[int]:
        table = self._table
        in_hand = table.in_hand(peer)
        if in_hand and not (alone and in_hand <= _LOW and table.available(pool) > table.quota[pool] // 4):
            return []
        slots = [table.grant(peer, pool)]
        spare = max(table.quota[pool] // 4, min(table.quota[pool] // 2, _FEW))
        most = max(_IN_HAND, min(_MANY_IN_HAND, table.quota[pool] // 8))
        while alone and pool == INPUT and in_hand + len(slots) < most and table.available(pool) > spare:
            slots.append(table.grant(peer, pool))
        return [slot for slot in slots if slot is not None]
