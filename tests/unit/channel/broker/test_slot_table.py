"""The slot table against a model: one dictionary from slot to what it should be."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tfos_fast.channel.broker.slot_table import SlotTable, State, TableError
from tfos_fast.channel.protocol.messages import INPUT, OUTPUT

PEERS = st.sampled_from([b"a", b"b", b"reader"])
POOLS = st.sampled_from([INPUT, OUTPUT])
SLOTS = st.integers(-1, 12)


class TableMachine(RuleBasedStateMachine):
    """Any sequence of calls, right and wrong ones."""

    @initialize(n=st.integers(4, 12), output=st.booleans())
    def make(self, n: int, output: bool) -> None:
        self.n = n
        self.table = SlotTable(n)
        self.model: dict[int, tuple[State, bytes | None, str]] = {}  # slots in use
        self.quota = {INPUT: n, OUTPUT: 0}
        if output:
            self.table.reserve_output()
            self.quota = {INPUT: n - max(1, n // 4), OUTPUT: max(1, n // 4)}

    def used(self, pool: str) -> int:
        return sum(1 for _, _, p in self.model.values() if p == pool)

    @rule(peer=PEERS, pool=POOLS)
    def grant(self, peer: bytes, pool: str) -> None:
        possible = len(self.model) < self.n and self.used(pool) < self.quota[pool]
        assert (self.table.available(pool) > 0) == possible
        slot = self.table.grant(peer, pool)
        if not possible:
            assert slot is None
            return
        assert slot is not None
        assert slot not in self.model
        self.model[slot] = (State.GRANTED, peer, pool)

    def move(self, slot: int, needed: State, owner: bytes | None, call, new: tuple[State, bytes | None] | None) -> None:
        state, held_by, pool = self.model.get(slot, (State.FREE, None, INPUT))
        if (state, held_by) != (needed, owner):
            before = list(self.table.state)
            with pytest.raises(TableError, match=rf"slot {slot} is "):
                call()
            assert self.table.state == before
            return
        call()
        if new is None:
            del self.model[slot]
        else:
            self.model[slot] = (*new, pool)

    @rule(peer=PEERS, slot=SLOTS)
    def publish(self, peer: bytes, slot: int) -> None:
        self.move(slot, State.GRANTED, peer, lambda: self.table.publish(peer, slot), (State.READY, None))

    @rule(peer=PEERS, slot=SLOTS)
    def deliver(self, peer: bytes, slot: int) -> None:
        self.move(slot, State.READY, None, lambda: self.table.deliver(slot, peer), (State.DELIVERED, peer))

    @rule(slot=SLOTS)
    def discard(self, slot: int) -> None:
        self.move(slot, State.READY, None, lambda: self.table.discard(slot), None)

    @rule(peer=PEERS, slot=SLOTS)
    def give_back(self, peer: bytes, slot: int) -> None:
        self.move(slot, State.GRANTED, peer, lambda: self.table.give_back(peer, slot), None)

    @rule(peer=PEERS, slot=SLOTS)
    def release(self, peer: bytes, slot: int) -> None:
        self.move(slot, State.DELIVERED, peer, lambda: self.table.release(peer, slot), None)

    @rule(peer=PEERS, state=st.sampled_from([None, State.GRANTED, State.DELIVERED]))
    def drop(self, peer: bytes, state: State | None) -> None:
        mine = {slot for slot, (s, p, _) in self.model.items() if p == peer and state in (None, s)}
        assert set(self.table.drop(peer, state)) == mine
        for slot in mine:
            del self.model[slot]

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "table"):
            return
        assert sum(self.table.counts().values()) == self.n
        for slot in range(self.n):
            state, owner, _ = self.model.get(slot, (State.FREE, None, INPUT))
            assert (self.table.state[slot], self.table.owner[slot]) == (state, owner)
        for pool in (INPUT, OUTPUT):
            assert self.table.used[pool] == self.used(pool) <= self.quota[pool]
            assert self.table.granted(pool) == sum(1 for s, _, p in self.model.values() if s is State.GRANTED and p == pool)
        for peer in (b"a", b"b", b"reader"):
            assert self.table.in_hand(peer) == sum(1 for s, p, _ in self.model.values() if (s, p) == (State.GRANTED, peer))
        assert self.table.counts() == {state.value: self.table.state.count(state) for state in State}


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_slot_that_was_free_last_is_granted_first():
    table = SlotTable(8)
    first, second = table.grant(b"a"), table.grant(b"a")
    assert (first, second) == (0, 1)
    table.give_back(b"a", first)
    assert table.grant(b"b") == first
