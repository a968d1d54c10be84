"""The slot table: who has each slot. Pure; only the broker's loop changes it (one owner, no locks).

State diagram of a slot::

                 grant                publish               deliver
        FREE ------------> GRANTED ------------> READY ------------> DELIVERED
          ^                   |                    |                     |
          |  give back,       |        terminate,  |                     |
          |  writer died      |        reader died |    release, reader  |
          +-------------------+--------------------+----- died ----------+

A READY slot survives its writer's death: its rows were published. Each slot in use belongs to one of two pools, input (rows on
their way to the reader) and output (results on their way back), and each pool has its own quota, so neither can starve the other.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from tfos_fast.channel.protocol.messages import INPUT, OUTPUT


class State(Enum):
    """Where a slot is on its way."""

    FREE = "free"
    GRANTED = "granted"
    READY = "ready"
    DELIVERED = "delivered"


class TableError(Exception):
    """A peer named a slot that it does not have: a bug or a forged message; the broker drops the peer."""


class SlotTable:
    """States and owners of ``n_slots`` slots.

    Parameters
    ----------
    n_slots : int
        At least 4.
    """

    def __init__(self, n_slots: int) -> None:
        self.n_slots = n_slots
        self.state = [State.FREE] * n_slots
        self.owner: list[bytes | None] = [None] * n_slots
        self.pool: list[str] = [INPUT] * n_slots
        self.quota: dict[str, int] = {INPUT: n_slots, OUTPUT: 0}
        self.used: dict[str, int] = {INPUT: 0, OUTPUT: 0}
        self._counts = {state: n_slots if state is State.FREE else 0 for state in State}
        self._in_hand: dict[bytes, int] = {}  # GRANTED slots by peer
        self._granted = {INPUT: 0, OUTPUT: 0}
        # Last in, first out: the slot that was free last is the one still in the caches.
        self._free: deque[int] = deque(range(n_slots - 1, -1, -1))

    def reserve_output(self) -> None:
        """Set a quarter of the slots (at least one) aside for results."""
        output = max(1, self.n_slots // 4)
        self.quota = {INPUT: self.n_slots - output, OUTPUT: output}

    def available(self, pool: str) -> int:
        """Slots that could be granted in this pool now."""
        return min(len(self._free), self.quota[pool] - self.used[pool])

    def grant(self, peer: bytes, pool: str = INPUT) -> int | None:
        """FREE to GRANTED: a slot for a writer, or None when its pool is used up."""
        if self.available(pool) <= 0:
            return None
        slot = self._free.pop()
        self.pool[slot] = pool
        self.used[pool] += 1
        self._move(slot, State.GRANTED, peer)
        return slot

    def publish(self, peer: bytes, slot: int) -> None:
        """GRANTED to READY: the writer has filled it. It belongs to nobody until it is delivered."""
        self._check(peer, slot, State.GRANTED)
        self._move(slot, State.READY, None)

    def deliver(self, slot: int, peer: bytes) -> None:
        """READY to DELIVERED: it belongs to this reader."""
        self._check(None, slot, State.READY)
        self._move(slot, State.DELIVERED, peer)

    def discard(self, slot: int) -> None:
        """READY to FREE: nobody will read it."""
        self._check(None, slot, State.READY)
        self._release(slot)

    def give_back(self, peer: bytes, slot: int) -> None:
        """GRANTED to FREE: the writer does not need it."""
        self._check(peer, slot, State.GRANTED)
        self._release(slot)

    def release(self, peer: bytes, slot: int) -> None:
        """DELIVERED to FREE: the last lease ended."""
        self._check(peer, slot, State.DELIVERED)
        self._release(slot)

    def drop(self, peer: bytes, state: State | None = None) -> list[int]:
        """The peer is gone: everything it was granted or delivered is FREE. Returns those slots.

        With ``state`` only the slots in that state: the peer stays and does not need them.
        """
        if state is State.GRANTED and not self.in_hand(peer):
            return []
        mine = [slot for slot in range(self.n_slots) if self.owner[slot] == peer and state in (None, self.state[slot])]
        for slot in mine:
            self._release(slot)
        return mine

    def in_hand(self, peer: bytes) -> int:
        """How many slots are granted to the peer."""
        return self._in_hand.get(peer, 0)

    def granted(self, pool: str = INPUT) -> int:
        """How many slots of a pool are granted."""
        return self._granted[pool]

    def counts(self) -> dict[str, int]:
        """State name -> number of slots."""
        return {state.value: count for state, count in self._counts.items()}

    def _move(self, slot: int, state: State, owner: bytes | None) -> None:
        # Counted here: the broker asks for every slot that passes, and there may be thousands.
        before, whose, pool = self.state[slot], self.owner[slot], self.pool[slot]
        if before is State.GRANTED and whose is not None:
            self._granted[pool] -= 1
            self._in_hand[whose] -= 1
            if not self._in_hand[whose]:
                del self._in_hand[whose]
        if state is State.GRANTED and owner is not None:
            self._granted[pool] += 1
            self._in_hand[owner] = self._in_hand.get(owner, 0) + 1
        self._counts[before] -= 1
        self._counts[state] += 1
        self.state[slot], self.owner[slot] = state, owner

    def _check(self, peer: bytes | None, slot: int, state: State) -> None:
        if not 0 <= slot < self.n_slots or self.state[slot] is not state or self.owner[slot] != peer:
            what = f"{self.state[slot].value} of {self.owner[slot]!r}" if 0 <= slot < self.n_slots else "no slot"
            raise TableError(f"slot {slot} is {what}, not {state.value} of {peer!r}")

    def _release(self, slot: int) -> None:
        self.used[self.pool[slot]] -= 1
        self._move(slot, State.FREE, None)
        self._free.append(slot)
