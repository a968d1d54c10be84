"""Who gets the next free slot."""

from __future__ import annotations

from tfos_fast.channel.broker.grants import Grants
from tfos_fast.channel.broker.slot_table import SlotTable
from tfos_fast.channel.protocol.messages import INPUT, OUTPUT


def made(slots: int) -> tuple[SlotTable, Grants, list[tuple[bytes, int]]]:
    """A table, its lines, and what is told: (peer, how many slots)."""
    table, told = SlotTable(slots), []
    return table, Grants(table, lambda peer, slots, pool: told.append((peer, len(slots)))), told


def test_a_writer_alone_gets_several_while_half_of_the_slots_are_free():
    table, grants, told = made(16)
    grants.want(b"a", INPUT)
    grants.serve()
    assert told == [(b"a", 4)]
    grants.want(b"a", INPUT)
    grants.serve()
    assert told == [(b"a", 4)], "it has enough in hand"
    assert grants.waiting() == (b"a",), "and its wish stands"
    for slot in (0, 1):
        table.publish(b"a", slot)
    grants.serve()
    assert told[1:] == [(b"a", 2)]


def test_who_has_none_comes_before_who_wants_more():
    table, grants, told = made(4)
    for peer in (b"a", b"b", b"c", b"d", b"a", b"e"):
        grants.want(peer, INPUT)
    grants.serve()
    assert told == [(b"a", 1), (b"b", 1), (b"c", 1), (b"d", 1)]
    assert grants.waiting() == (b"e",)
    grants.want(b"a", INPUT)
    table.give_back(b"b", 1)
    grants.serve()
    assert told[4:] == [(b"e", 1)]


def test_a_quarter_stays_for_who_has_none():
    table, grants, told = made(8)
    for _ in range(5):
        table.grant(b"other")
    grants.want(b"a", INPUT)
    grants.serve()
    grants.want(b"a", INPUT)
    grants.serve()
    assert told == [(b"a", 1)]
    assert table.available(INPUT) == 2


def test_results_get_slots_one_by_one_from_their_own_pool():
    table, grants, told = made(16)
    table.reserve_output()
    grants.want(b"reader", OUTPUT)
    grants.want(b"a", INPUT)
    grants.serve()
    assert sorted(told) == [(b"a", 4), (b"reader", 1)]


def test_who_leaves_is_forgotten():
    table, grants, told = made(4)
    for _ in range(4):
        table.grant(b"other")
    grants.want(b"a", INPUT)
    grants.forget(b"a")
    table.drop(b"other")
    grants.serve()
    assert told == []
    assert grants.waiting() == ()
