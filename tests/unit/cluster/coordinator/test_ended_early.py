"""What is told of a feed: which nodes ended early, and what a feed task says of rows that nobody wants."""

from __future__ import annotations

import pickle
import time

import pytest

from tests.support.helpers import broker_here, ended, in_thread, wait_for
from tfos_fast.channel import Channel
from tfos_fast.cluster.coordinator.ledger import Ledger
from tfos_fast.cluster.coordinator.node_state import SILENT, NodeState, early_nodes, stuck
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.feed_keys import feed_number, job_of

ME = m.Process(1, 1, "here")


def nodes(*begun: int) -> dict[str, NodeState]:
    """Nodes to which so many partitions came. All of them are in epoch 4, of feed 2."""
    states = {f"worker:{i}": NodeState(f"worker:{i}", "token", "here", ME, at=4) for i in range(len(begun))}
    for state, many in zip(states.values(), begun, strict=True):
        state.begun, state.newest = many, m.Fed(2, 100)
    return states


def stop(state: NodeState, everybody: dict[str, NodeState]) -> None:
    state.terminated = True
    state.stops(everybody.values())


def early(states: dict[str, NodeState], *, last: int = 4, whole: bool = True, missed: frozenset[str] = frozenset()) -> list[str]:
    return early_nodes(states, 2, last, dict.fromkeys(states, 0), whole=whole, missed=missed)


def test_who_took_all_that_was_for_it_has_not_ended_early():
    states = nodes(3, 3)
    stop(states["worker:0"], states)
    states["worker:0"].stops(())  # its end, later
    states["worker:1"].begun += 1  # more than its half came to the first one, or as much
    assert early(states) == []
    stop(states["worker:1"], states)
    assert early(states) == []


@pytest.mark.parametrize("more", [{"last": 5}, {"whole": False}, {"missed": {"worker:0"}}, {"missed": {""}}])
def test_who_takes_no_more_while_there_is_more_has_ended_early(more):
    states = nodes(3, 3)
    stop(states["worker:0"], states)
    assert early(states, **more) == ["worker:0"]
    assert early(states, missed=frozenset(["worker:1"])) == []


def test_rows_and_partitions_that_it_leaves_to_others():
    states = nodes(1, 1)
    stop(states["worker:0"], states)
    states["worker:1"].begun = 3
    assert early(states) == ["worker:0"]
    states["worker:1"].begun = 2
    assert early(states) == []
    states["worker:0"].newest = m.Fed(2, 100, 1)
    assert early(states) == ["worker:0"]
    states["worker:0"].newest = m.Fed(1, 100, 1)  # of the feed before
    assert early(states) == []
    states["worker:0"].begin_anew()
    assert (states["worker:0"].eats, states["worker:0"].stopped_at) == (True, None)


def test_a_partition_begins_once():
    ledger = Ledger()
    ledger.cover("f", {1: [(0, 10)]})
    assert [ledger.is_new(key) for key in ("f/0", "f/1")] == [True, True]
    for number in (0, 1):
        ledger.open("worker:0", f"f/{number}", 1)
        ledger.done("worker:0", f"f/{number}", 1, 20)
        assert not ledger.is_new(f"f/{number}")
    assert (ledger.node_of("f/1"), ledger.node_of("f/2")) == ("worker:0", "")
    ledger.close("f")
    assert not ledger.is_new("f/2")
    ledger.lost("worker:0", {}, {"f/0": [(5, 20)]})
    assert not ledger.is_new("f/0")


def test_the_number_of_a_feed_is_in_its_keys():
    assert feed_number(f"{job_of(12, 3)}/45") == 12
    assert {feed_number(key) for key in ("infer/1/2", "offer/feed1/0/1", "feedback/1", "")} == {-1}


@pytest.mark.parametrize("way", ["rows", "pickled", "batches"])
def test_a_writer_knows_whether_the_reader_missed_rows(way):
    pa = pytest.importorskip("pyarrow")
    writes = {
        "rows": lambda writer, rows: writer.write_rows(rows),
        "pickled": lambda writer, rows: writer.write_pickled([pickle.dumps(rows)]),
        "batches": lambda writer, rows: writer.write_batch(pa.RecordBatch.from_pydict({"c0": pa.array(rows, pa.int64())})),
    }
    with broker_here(memory="1m", slot_bytes="64k") as broker:
        reader = Channel.attach(broker.address).reader()

        def read():
            with reader:
                assert reader.next_batch(16).rows == 16  # all there is, and then it leaves

        thread, _ = in_thread(read)
        writer = Channel.attach(broker.address).writer()
        writer.open_partition("p", 0)
        writes[way](writer, list(range(16)))
        assert not writer.has_more()
        wait_for(lambda: writer._slots.serve() or writer.terminated)
        ended(thread)
        writes[way](writer, [])
        assert not writer.has_more()
        assert not writer.dropped
        writes[way](writer, [1])
        assert writer.has_more()
        writer.end_partition()
        assert not writer.dropped
        writer.close()
        assert broker.feed.rows_published == broker.feed.rows_taken == 16


def test_rows_that_were_packed_and_those_that_crossed_the_readers_word_are_left():
    with broker_here(memory="1m", slot_bytes="64k") as broker:
        reader = Channel.attach(broker.address).reader()
        reader.open_columns(8, wait=False)
        writer = Channel.attach(broker.address).writer()
        writer.open_partition("p", 0)
        writer.write_rows(range(8))
        writer._slots.publish()
        writer.write_rows(range(8))
        reader.terminate()
        wait_for(lambda: broker.feed.terminated)
        writer._slots.publish()  # it does not know yet
        writer.write_rows(range(8))
        wait_for(lambda: writer._slots.serve() or writer.terminated)
        writer.end_partition()
        assert writer.dropped
        writer.close()
        wait_for(lambda: broker.feed.rows_published == 16)
        assert broker.feed.rows_taken == 0
        reader.close()


def test_an_agent_that_falls_silent_before_its_first_beat_is_told_of():
    states = nodes(0, 0)
    for state in states.values():
        state.connected = time.monotonic()
    assert stuck(states.values()) == ""
    states["worker:1"].connected -= SILENT + 1
    assert stuck(states.values()) == f"nothing was heard of the agent of worker:1 on here (process 1) for {SILENT + 1:.0f} s"
    states["worker:1"].ended = True
    assert stuck(states.values()) == ""
