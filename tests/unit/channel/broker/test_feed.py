"""The feed as a pure object: one case after the other, message by message."""

from __future__ import annotations

from typing import Any

import pytest

from tfos_fast.channel.broker.feed import Feed
from tfos_fast.channel.broker.slot_table import TableError
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.lockstep import Pace
from tfos_fast.channel.protocol.messages import INPUT, OUTPUT
from tfos_fast.channel.protocol.row_spans import NOWHERE
from tfos_fast.channel.schema.columns import Column, Schema

INTS = Schema("bare", (Column("c0", "fixed", "int64", (), "int"),))


def a_feed(**options: Any) -> Feed:
    feed = Feed(4, **options)
    for peer in (b"w", b"v"):
        feed.hello(peer, m.Hello("writer", 1, 1))
    feed.hello(b"r", m.Hello("reader", 2, 1))
    feed.outbox.clear()
    return feed


def told(feed: Feed, peer: bytes) -> list[Any]:
    mine = [message for to, message in feed.outbox if to == peer]
    feed.outbox[:] = [(to, message) for to, message in feed.outbox if to != peer]
    return mine


def open_and_publish(feed: Feed, peer: bytes, key: str, rows: int, *, exchange: bool = False) -> m.Opened:
    feed.handle(peer, m.OpenPartition(key, 0, exchange))
    feed.handle(peer, m.Propose(INTS))
    feed.handle(peer, m.Want(INPUT))
    opened, agreed, granted = told(feed, peer)
    feed.handle(peer, m.Publish(granted.slots[0], opened.stream, rows, 16, agreed.schema_id))
    return opened


def test_input_and_output_have_quotas_of_their_own():
    feed = a_feed(form=m.Form("rows"))
    feed.handle(b"r", m.OpenReader(m.Form("rows"), False))
    assert feed.table.quota == {INPUT: 3, OUTPUT: 1}
    for peer in (b"w", b"v"):
        open_and_publish(feed, peer, peer.decode(), 1, exchange=True)
    feed.handle(b"w", m.Want(INPUT))  # it has one in hand, since half of the slots were free when it came
    feed.handle(b"v", m.Want(INPUT))
    assert (feed.table.in_hand(b"w"), feed.table.in_hand(b"v"), feed.table.available(INPUT)) == (1, 0, 0)
    feed.handle(b"r", m.Want(OUTPUT))
    assert told(feed, b"w") == told(feed, b"v") == []
    assert [type(x) for x in told(feed, b"r")] == [m.FormSet, m.Deliver, m.Deliver, m.Granted]


def test_results_go_to_the_writer_that_asked_and_nowhere_else():
    feed = a_feed(form=m.Form("rows"))
    feed.handle(b"r", m.OpenReader(m.Form("rows"), False))
    asks = open_and_publish(feed, b"w", "p", 1, exchange=True)
    quiet = open_and_publish(feed, b"v", "q", 1)
    told(feed, b"r")
    for opened in (asks, quiet):
        feed.handle(b"r", m.Register(INTS))
        feed.handle(b"r", m.Want(OUTPUT))
        agreed, granted = told(feed, b"r")
        feed.handle(b"r", m.Publish(granted.slots[0], opened.stream, 1, 16, agreed.schema_id))
        if opened is asks:
            (result,) = told(feed, b"w")
            feed.handle(b"w", m.Done([], [result.slot]))
    assert told(feed, b"v") == []
    assert feed.table.used[OUTPUT] == 0


def test_results_for_a_writer_that_is_gone_are_dropped():
    feed = a_feed(form=m.Form("rows"))
    feed.handle(b"r", m.OpenReader(m.Form("rows"), False))
    opened = open_and_publish(feed, b"w", "p", 1, exchange=True)
    feed.leave(b"w", died=True)
    told(feed, b"r")
    feed.handle(b"r", m.Register(INTS))
    feed.handle(b"r", m.Want(OUTPUT))
    agreed, granted = told(feed, b"r")
    feed.handle(b"r", m.Publish(granted.slots[0], opened.stream, 1, 16, agreed.schema_id))
    assert feed.table.used[OUTPUT] == 0
    assert feed._streams.get(opened.stream) is None


def test_complete_partitions_are_forgotten_with_their_epoch():
    feed = a_feed(form=m.Form("rows"))
    feed.handle(b"r", m.OpenReader(m.Form("rows"), True))
    done = open_and_publish(feed, b"w", "done", 1)
    feed.handle(b"w", m.ClosePartition(done.stream, 1))
    going_on = open_and_publish(feed, b"v", "going on", 1)
    feed.end_epoch()
    assert feed._streams.get(done.stream) is not None  # its writer still waits to hear that the rows were taken
    delivered = [message for message in told(feed, b"r") if isinstance(message, m.Deliver)]
    feed.handle(b"r", m.Done([message.slot for message in delivered], []))
    feed.leave(b"w", died=False)
    feed.end_epoch()
    assert feed._streams.get(done.stream) is None
    assert feed.fence("done", 1)[0] == NOWHERE
    assert feed._streams.get(going_on.stream) is not None


def test_dict_rows_join_a_pinned_schema_of_tuples_with_the_same_names():
    feed = a_feed(form=m.Form("columns"))
    feed.handle(b"r", m.OpenReader(m.Form("columns", 8), True))
    open_and_publish(feed, b"w", "p", 8)
    feed.handle(b"r", m.Pin())
    feed.handle(b"v", m.OpenPartition("q", 0, False))
    column = (Column("c0", "fixed", "int64"),)
    feed._agreement.propose(Schema("bare", column), m.Form("columns"))
    feed.outbox.clear()
    other = a_feed(form=m.Form("columns"))
    for structure in ("tuple", "dict", "row"):
        other.handle(b"w", m.Propose(Schema(structure, column)))  # type: ignore[arg-type]
        other._agreement.pin()
    assert [type(x) for x in told(other, b"w")] == [m.Agreed] * 3


def test_one_flush_until_the_writer_publishes():
    feed = a_feed(form=m.Form("columns"))
    feed.handle(b"r", m.OpenReader(m.Form("columns", 8), True))
    opened = open_and_publish(feed, b"w", "p", 8)
    for _ in range(50):
        feed.handle(b"r", m.Starving())
    assert [type(x) for x in told(feed, b"w")] == [m.Flush]
    feed.handle(b"w", m.Want(INPUT))
    (granted,) = told(feed, b"w")
    feed.handle(b"w", m.Publish(granted.slots[0], opened.stream, 1, 16, 0))
    for _ in range(50):
        feed.handle(b"r", m.Starving())
    assert [type(x) for x in told(feed, b"w")] == [m.Flush]


def test_nothing_is_granted_after_the_reader_left():
    feed = a_feed(form=m.Form("columns"))
    feed.handle(b"r", m.OpenReader(m.Form("columns", 8), True))
    open_and_publish(feed, b"w", "p", 8)
    feed.end_feed()
    feed.leave(b"r", died=False)
    feed.handle(b"w", m.Want(INPUT))
    assert not any(isinstance(message, m.Granted) for message in told(feed, b"w"))
    assert feed.terminated


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        (b"w", m.Publish(0, 0, 1, 1, 0)),
        (b"w", m.Publish(0, 0, 17, 16, 0)),
        (b"w", m.ClosePartition(0, 0)),
        (b"v", m.ClosePartition(0, 8)),
        (b"w", m.OpenPartition("q", 0, False)),
        (b"w", m.Want(OUTPUT)),
        (b"w", m.Done([0], [])),
        (b"w", m.Terminate()),
        (b"r", m.OpenPartition("q", 0, False)),
        (b"r", m.Done([], [3])),
        (b"x", m.Want(INPUT)),
    ],
)
def test_who_breaks_the_protocol_is_found_out(peer: bytes, message: Any):
    feed = a_feed(form=m.Form("columns"))
    feed.handle(b"r", m.OpenReader(m.Form("columns", 8), True))
    opened = open_and_publish(feed, b"w", "p", 8)
    assert opened.stream == 0
    if isinstance(message, m.ClosePartition) and peer == b"w":
        feed.handle(b"w", m.ClosePartition(0, 8))
    with pytest.raises(TableError):
        feed.handle(peer, message)


def test_after_a_restart_those_rows_are_counted_that_do_not_come_again():
    feed = a_feed(form=m.Form("columns", 8))
    feed.recovers, feed.number_of = True, lambda key: int(key[0])
    feed.deliveries.keep = True
    feed.hello(b"c", m.Hello("control", 2, 1))
    feed.handle(b"r", m.OpenReader(m.Form("columns", 8), True))
    old = open_and_publish(feed, b"w", "1/0", 10)
    feed.handle(b"w", m.ClosePartition(old.stream, 10))
    feed.end_epoch()
    new = open_and_publish(feed, b"v", "2/0", 16)
    slots = [message.slot for message in told(feed, b"r") if isinstance(message, m.Deliver)]
    feed.handle(b"r", m.Done(slots[:1], []))  # of the second slot the reader has but begun
    feed.handle(b"c", m.Commit(1, True, [(old.stream, 8), (new.stream, 5)]))
    assert (feed.total.taken, feed.newest.taken) == (10, 0)
    assert feed.restart().rows == {"2/0": [(5, 16)]}
    for tally, rows in ((feed.total, 15), (feed.newest, 5)):
        assert tally.published == tally.taken == tally.settled == rows
    # What comes again counts when it has come, and is lost with the next life when that commits nothing.
    feed.hello(b"s", m.Hello("reader", 3, 1))
    feed.handle(b"s", m.OpenReader(m.Form("columns", 8), True))
    feed.hello(b"u", m.Hello("writer", 1, 1))
    feed.outbox.clear()
    open_and_publish(feed, b"u", "2/0", 11)
    feed.handle(b"s", m.Done([message.slot for message in told(feed, b"s") if isinstance(message, m.Deliver)], []))
    assert (feed.rows_published, feed.rows_taken, feed.newest.taken) == (26, 26, 16)
    feed.restart()
    assert (feed.rows_published, feed.rows_taken, feed.newest.taken) == (15, 15, 5)


@pytest.mark.parametrize("whole", [True, False])
def test_unused_rows_of_an_epoch_that_is_repeated_are_counted_once(whole):
    feed = a_feed(form=m.Form("columns", 8))
    feed.recovers = True
    feed.hello(b"c", m.Hello("control", 2, 1))
    feed.handle(b"r", m.OpenReader(m.Form("columns", 8), True))
    feed.handle(b"r", m.SetPace(Pace("stop", 8)))
    opened = open_and_publish(feed, b"w", "0/0", 14)
    feed.handle(b"w", m.ClosePartition(opened.stream, 14))
    feed.steps.alone = False
    feed.steps.agree(0, 1, True)
    feed.end_epoch()
    slots = [message.slot for message in told(feed, b"r") if isinstance(message, m.Deliver)]
    feed.handle(b"r", m.Done(slots, slots))
    assert (feed.total.taken, feed.total.unused, feed.newest.unused) == (14, 6, 6)
    if whole:
        feed.handle(b"c", m.Commit(1, True, [(opened.stream, 8)]))
    feed.restart()
    assert (feed.total.taken, feed.total.unused, feed.newest.unused) == ((14, 6, 6) if whole else (0, 0, 0))


def test_rows_that_a_reader_leaves_are_not_unused_too():
    feed = a_feed(form=m.Form("columns", 8))
    feed.handle(b"r", m.OpenReader(m.Form("columns", 8), True))
    feed.handle(b"r", m.SetPace(Pace("stop", 8)))
    feed.steps.alone = False
    open_and_publish(feed, b"w", "0/0", 14)
    feed.handle(b"r", m.Terminate())
    feed.steps.agree(0, 1, True)
    feed.end_epoch()
    assert (feed.total.published, feed.total.taken, feed.total.unused) == (14, 0, 0)


def test_results_that_were_given_outlive_their_reader():
    feed = a_feed(form=m.Form("rows"))
    feed.recovers = True
    feed.handle(b"r", m.OpenReader(m.Form("rows"), False))
    for peer, key in ((b"w", "p"), (b"v", "q")):
        opened = open_and_publish(feed, peer, key, 3, exchange=True)
        feed.handle(peer, m.ClosePartition(opened.stream, 3))
    slots = [message.slot for message in told(feed, b"r") if isinstance(message, m.Deliver)]
    feed.handle(b"r", m.Done(slots, slots))
    feed.leave(b"w", died=False)
    feed.restart()
    assert feed.rows_published == feed.rows_taken == 3  # the other task is tried again
