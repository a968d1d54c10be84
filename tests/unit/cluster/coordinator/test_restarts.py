"""Restarts apart from processes: which rows come again after a death, against a model; and who is started again, and when."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tfos_fast.channel.broker.delivered import Deliveries
from tfos_fast.channel.broker.tally import Tally
from tfos_fast.channel.protocol.row_spans import NOWHERE, OPEN, count, join, split, without
from tfos_fast.channel.reader.position import Trail
from tfos_fast.cluster.coordinator.ledger import AskFence, Grant, Ledger, PartitionState, Refuse
from tfos_fast.cluster.coordinator.restarts import Begin, Halt, Restarts

NODES = ["worker:0", "worker:1"]
KEYS = ["j/0", "j/1"]
ROWS = 12

spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)).map(lambda p: (p[0], p[0] + p[1])), max_size=5)


def rows_of(some):
    return {row for begin, end in some for row in range(begin, end)}


@given(spans, spans, st.integers(0, 40))
def test_spans_are_sets_of_rows(a, b, n):
    assert rows_of(join(a, b)) == rows_of(a) | rows_of(b)
    assert rows_of(without(a, b)) == rows_of(a) - rows_of(b)
    joined = join(a)
    assert all(one[1] < other[0] for one, other in pairwise(joined))
    first, rest = split(joined, n)
    assert count(first) == min(n, count(joined))
    assert rows_of(first) | rows_of(rest) == rows_of(a)
    assert not rows_of(first) & rows_of(rest)


# ---- rows that come again ----------------------------------------------------------------------------------------------------


def test_rows_behind_the_commit_come_again_though_their_job_is_over():
    ledger = Ledger()
    ledger.open("worker:0", "f/3", 1)
    ledger.done("worker:0", "f/3", 1, 100)
    ledger.close("f")
    assert ledger.lost("worker:0", {}, {"f/3": [(40, 100)]}) == []
    assert ledger.unfinished("f") == {3}
    assert ledger.open("worker:1", "f/3", 2) == [Grant("worker:1", "f/3", 2, 40, stop=100)]
    ledger.done("worker:1", "f/3", 2, 100)
    assert ledger.unfinished("f") == frozenset()


def test_of_a_job_that_was_over_only_what_was_lost_comes_again():
    ledger = Ledger()
    for number in (3, 4):
        ledger.open("worker:0", f"f/{number}", 1)
        ledger.done("worker:0", f"f/{number}", 1, 100)
    ledger.close("f")
    ledger.lost("worker:0", {}, {"f/3": [(40, 60)]})
    assert ledger.open("worker:1", "f/3", 2) == [Grant("worker:1", "f/3", 2, 40, stop=60)]
    ledger.done("worker:1", "f/3", 2, 60)
    assert ledger.open("worker:1", "f/3", 3) == [Grant("worker:1", "f/3", 3, 60, stop=60)]  # its task is tried again: no rows
    (answer,) = ledger.open("worker:1", "f/4", 4)
    assert isinstance(answer, Refuse)


def test_the_open_end_of_a_partition_is_joined_with_what_is_lost_before_it():
    ledger = Ledger()
    ledger.open("worker:0", "f/3", 1)
    assert ledger.lost("worker:0", {"f/3": (1, 70)}, {"f/3": [(40, 70)]}) == []
    assert ledger.open("worker:0", "f/3", 2) == [Grant("worker:0", "f/3", 2, 40)]


def test_who_waits_for_a_fence_at_a_dead_reader_gets_the_partition():
    ledger = Ledger()
    ledger.open("worker:0", "f/3", 1)
    assert ledger.open("worker:1", "f/3", 2) == [AskFence("worker:0", "f/3", 2)]
    assert ledger.lost("worker:0", {"f/3": (1, 70)}, {"f/3": [(40, 70)]}) == [Grant("worker:1", "f/3", 2, 40)]
    assert ledger.fenced("worker:0", "f/3", 2, (1, 70)) == []  # its answer comes late


def test_rows_that_are_lost_elsewhere_do_not_touch_the_attempt_that_goes_on():
    ledger = Ledger()
    ledger.open("worker:0", "f/3", 1)
    ledger.open("worker:1", "f/3", 2)
    ledger.fenced("worker:0", "f/3", 2, (1, 70))
    assert ledger.lost("worker:0", {"f/3": (1, 70)}, {"f/3": [(40, 70)]}) == []
    assert ledger.done("worker:1", "f/3", 2, 100) == []
    assert ledger.unfinished("f") == {3}
    assert ledger.open("worker:1", "f/3", 3) == [Grant("worker:1", "f/3", 3, 40, stop=70)]
    assert ledger.open("worker:0", "f/3", 4) == [AskFence("worker:1", "f/3", 4)]
    assert ledger.fenced("worker:1", "f/3", 4, (3, 50)) == [Grant("worker:0", "f/3", 4, 50, stop=70)]


def moved_and_lost():
    """Attempt 2 goes on at worker:1 behind row 1, and row 0 is lost at worker:0."""
    ledger = Ledger()
    ledger.open("worker:0", "f/3", 1)
    ledger.open("worker:1", "f/3", 2)
    assert ledger.fenced("worker:0", "f/3", 2, (1, 1)) == [Grant("worker:1", "f/3", 2, 1)]
    assert ledger.lost("worker:0", {"f/3": (1, 1)}, {"f/3": [(0, 1)]}) == []
    assert ledger.open("worker:1", "f/3", 3) == [AskFence("worker:1", "f/3", 3)]
    return ledger


def test_a_reader_dies_before_its_node_hears_which_rows_an_attempt_is_for():
    ledger = moved_and_lost()
    assert ledger.fenced("worker:1", "f/3", 3, (2, 1)) == [Grant("worker:1", "f/3", 3, 0)]
    assert ledger.lost("worker:1", {"f/3": (2, 1)}, {}) == []  # attempt 3 was not opened; and where 2 came to is not where 3 did
    assert ledger.open("worker:0", "f/3", 4) == [Grant("worker:0", "f/3", 4, 0)]


def test_a_task_dies_before_it_hears_which_rows_its_attempt_is_for():
    ledger = moved_and_lost()
    assert ledger.fenced("worker:1", "f/3", 3, (2, 5)) == [Grant("worker:1", "f/3", 3, 0, stop=1)]
    assert ledger.open("worker:0", "f/3", 4) == [AskFence("worker:1", "f/3", 4)]
    assert ledger.fenced("worker:1", "f/3", 4, (2, 5)) == [Grant("worker:0", "f/3", 4, 0, stop=1)]
    ledger.done("worker:0", "f/3", 4, 1)
    assert ledger.open("worker:0", "f/3", 5) == [Grant("worker:0", "f/3", 5, 5)]


def test_an_attempt_that_asks_again_goes_on_with_its_rows():
    """Its node has connected anew, and the answer to the first question comes, too."""
    ledger = Ledger()
    ledger.open("worker:0", "f/3", 1)
    ledger.open("worker:1", "f/3", 2)
    assert ledger.fenced("worker:0", "f/3", 2, (1, 1)) == [Grant("worker:1", "f/3", 2, 1)]
    assert ledger.lost("worker:0", {"f/3": (1, 1)}, {"f/3": [(0, 1)]}) == []
    assert ledger.open("worker:1", "f/3", 2) == [AskFence("worker:1", "f/3", 2)]
    assert ledger.fenced("worker:1", "f/3", 2, (2, 5)) == [Grant("worker:1", "f/3", 2, 5)]
    ledger.open("worker:1", "f/3", 2)
    assert ledger.done("worker:1", "f/3", 2, 12) == []
    assert ledger.unfinished("f") == {3}
    assert ledger.open("worker:1", "f/3", 3) == [Grant("worker:1", "f/3", 3, 0, stop=1)]


def test_an_attempt_that_asks_again_gets_no_rows_that_were_lost_meanwhile():
    ledger = Ledger()
    ledger.open("worker:0", "f/3", 1)
    ledger.done("worker:0", "f/3", 1, 12)
    assert ledger.open("worker:1", "f/3", 2) == [Grant("worker:1", "f/3", 2, 12)]
    ledger.lost("worker:0", {"f/3": (1, 12)}, {"f/3": [(0, 12)]})
    assert ledger.open("worker:1", "f/3", 2) == [Grant("worker:1", "f/3", 2, 12, stop=12)]
    assert ledger.done("worker:1", "f/3", 2, 12) == []  # of the first answer
    assert ledger.unfinished("f") == {3}
    assert ledger.open("worker:1", "f/3", 3) == [Grant("worker:1", "f/3", 3, 0, stop=12)]


def test_what_an_earlier_application_had_is_not_published():
    ledger = Ledger()
    ledger.cover("f", {3: [(0, 10), (20, 30)]})
    assert ledger.open("worker:0", "f/3", 1) == [Grant("worker:0", "f/3", 1, 10, stop=20)]
    ledger.done("worker:0", "f/3", 1, 20)
    assert ledger.unfinished("f") == {3}
    assert ledger.open("worker:0", "f/3", 2) == [Grant("worker:0", "f/3", 2, 30)]
    ledger.done("worker:0", "f/3", 2, 31)
    assert ledger.unfinished("f") == frozenset()


def test_the_end_of_an_epoch_covers_rows_that_were_left_unused():
    book = Deliveries(keep=True)
    book.opened(0, "f/0", 1, 0)
    book.published(0, 10)
    book.end_epoch()
    book.opened(1, "g/0", 1, 0)
    book.published(1, 10)
    book.commit(1, True, {0: 4, 1: 3})
    assert (book.epoch, book.lost()) == (1, {"g/0": [(3, 10)]})
    assert book.resumes() == 1
    assert book.position(1, True, {1: 2}) == (1, {0: {"f/0": [(0, 10)]}, 1: {"g/0": [(0, 5)]}})


def test_rows_that_wait_for_a_full_batch_while_the_next_epoch_is_handed_out_are_not_forgotten():
    book = Deliveries(keep=True)
    book.opened(0, "f/0", 1, 0)
    book.published(0, 10)
    book.end_epoch()
    book.opened(1, "g/0", 1, 0)
    book.published(1, 12)
    assert book.position(1, False, {0: 8, 1: 4}) == (0, {0: {"f/0": [(0, 8)]}, 1: {"g/0": [(0, 4)]}})
    book.commit(1, False, {0: 8, 1: 4})
    assert (book.epoch, book.resumes()) == (1, 0)
    assert book.lost() == {"f/0": [(8, 10)], "g/0": [(4, 12)]}
    book.commit(1, False, {0: 2})
    assert book.resumes() == 1


def test_commits_are_counted_row_by_row_and_by_feed():
    total, old, new = Tally(), Tally(1), Tally(2)
    book = Deliveries(keep=True, total=total)
    book.opened(0, "f/0", 1, 0, old)
    book.published(0, 10)
    book.end_epoch()
    book.opened(1, "g/0", 1, 50, new)
    book.published(1, 10)
    book.commit(0, True, {0: 4})
    assert (total.settled, old.settled, new.settled) == (4, 4, 0)
    book.commit(1, True, {0: 2, 1: 3, 7: 5})  # the end of the epoch covers what was left unused of it; lane 7 is unknown
    assert (book.whole, total.settled, old.settled, new.settled) == (1, 13, 10, 3)
    book.commit(1, True, {0: 4, 1: 100})  # more than there was is not counted
    assert (total.settled, old.settled, new.settled) == (20, 10, 10)


def test_a_lane_that_was_interrupted_has_several_spans():
    book = Deliveries(keep=True)
    book.opened(0, "f/0", 1, 0)
    book.published(0, 10)
    book.opened(0, "f/0", 2, 50)
    book.published(0, 10)
    book.commit(0, False, {0: 8})
    assert book.lost() == {"f/0": [(8, 10), (50, 60)]}
    book.commit(0, False, {0: 7})
    assert book.lost() == {"f/0": [(55, 60)]}
    assert book.frontier() == {"f/0": (2, 60)}


def test_without_restarts_long_ended_epochs_are_forgotten():
    for keep in (True, False):
        book = Deliveries(keep=keep)
        for epoch in range(5):
            book.opened(epoch, f"f/{epoch}", 1, 0)
            book.published(epoch, 1)
            book.end_epoch()
        assert len(book.lost()) == (5 if keep else 2)
        trail = Trail()
        trail.keep = keep
        for epoch in range(8):
            trail.note(epoch, 1)
            trail.settle(trail.total)
            trail.end_epoch()
        assert len(trail.counts(trail.total)) == (8 if keep else 2)


def test_a_trail_tells_the_lanes_of_any_number_of_rows():
    trail = Trail()
    for lane, rows in [(0, 5), (0, 5), (1, 4), (0, 2)]:
        trail.note(lane, rows)
    assert trail.counts(12) == {0: 10, 1: 2}
    trail.committed(12)
    assert trail.counts(16) == {0: 2, 1: 2}
    with pytest.raises(ValueError, match="committed"):
        trail.counts(11)


class Lives(RuleBasedStateMachine):
    """Two nodes share two partitions; attempts come, feed tasks and readers die, programs commit; a network that delays
    everything."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.clock = self.lanes = 0
        self.asked: dict[tuple[str, int], str] = {}  # (key, attempt) -> node, asked and not answered
        self.streams: dict[tuple[str, str], list] = {}  # (node, key) -> [attempt, lane, row, stop, whether it may publish]
        self.tallies = {node: Tally() for node in NODES}
        self.books = {node: Deliveries(keep=True, total=self.tallies[node]) for node in NODES}
        self.trails = {node: Trail() for node in NODES}
        self.queues: dict[str, list[tuple[str, int, int]]] = {node: [] for node in NODES}  # (key, lane, row), not handed out
        self.handed: dict[str, list[tuple[str, int]]] = {node: [] for node in NODES}  # and not committed
        self.safe: list[tuple[str, int]] = []  # committed
        self.settled = dict.fromkeys(NODES, 0)  # how many of these at each node
        self.to_node: list[Grant | AskFence] = []
        self.to_ledger: list[tuple] = []

    def act(self, actions) -> None:
        self.to_node.extend(action for action in actions if not isinstance(action, Refuse))

    @rule(key=st.sampled_from(KEYS), node=st.sampled_from(NODES))
    def launch(self, key, node):
        self.clock += 1
        self.asked[key, self.clock] = node
        self.to_ledger.append(("open", node, key, self.clock))

    @precondition(lambda self: self.to_ledger)
    @rule(data=st.data())
    def ledger_hears(self, data):
        node = data.draw(st.sampled_from(sorted({message[1] for message in self.to_ledger})))
        self._hear(node)

    def _hear(self, node):
        message = next(message for message in self.to_ledger if message[1] == node)
        self.to_ledger.remove(message)
        self.act(getattr(self.ledger, message[0])(*message[1:]))

    @precondition(lambda self: self.to_node)
    @rule(data=st.data())
    def node_hears(self, data):
        self._deliver(data.draw(st.sampled_from(sorted({message.node for message in self.to_node}))))

    @rule()
    def network_is_quick(self):
        while self.to_ledger or self.to_node:
            if self.to_ledger:
                self._hear(self.to_ledger[0][1])
            if self.to_node:
                self._deliver(self.to_node[0].node)

    @rule(key=st.sampled_from(KEYS), node=st.sampled_from(NODES), reader=st.booleans())
    def answer_is_late(self, key, node, reader):
        """The ledger has made its mind up, and before the node hears of it the task dies, or the reader."""
        self.network_is_quick()
        self.launch(key, node)
        attempt = self.clock
        while (self.to_ledger or self.to_node) and not any(isinstance(message, Grant) for message in self.to_node):
            if self.to_node:
                self._deliver(self.to_node[0].node)
            else:
                self._hear(self.to_ledger[0][1])
        self.asked.pop((key, attempt), None)
        if reader:
            self.reader_dies(node)

    @rule(key=st.sampled_from(KEYS), node=st.sampled_from(NODES), n=st.integers(1, 4))
    def partition_moves(self, key, node, n):
        self.network_is_quick()
        self.launch(key, node)
        self.network_is_quick()
        if self.streams.get((node, key), [0] * 5)[4]:
            self._publish(node, key, n)

    def _deliver(self, node):
        message = next(message for message in self.to_node if message.node == node)
        self.to_node.remove(message)
        stream = self.streams.get((node, message.key))
        if isinstance(message, AskFence):
            if stream is not None and stream[0] < message.attempt:
                stream[4] = False
            self.to_ledger.append(("fenced", node, message.key, message.attempt, (stream[0], stream[2]) if stream else NOWHERE))
        elif self.asked.pop((message.key, message.attempt), None) is not None:
            # As in channel/broker/streams.py: an unfinished lane goes on.
            if stream is not None and message.skip and stream[2] < stream[3]:
                lane = stream[1]
            else:
                self.lanes += 1
                lane = self.lanes
            self.streams[node, message.key] = [message.attempt, lane, message.skip, min(message.stop, ROWS), True]
            self.books[node].opened(lane, message.key, message.attempt, message.skip)
            self._check_done(node, message.key)

    def _check_done(self, node, key):
        stream = self.streams[node, key]
        if stream[4] and stream[2] >= stream[3]:
            stream[4] = False
            self.to_ledger.append(("done", node, key, stream[0], stream[2]))

    @precondition(lambda self: any(stream[4] for stream in self.streams.values()))
    @rule(data=st.data(), n=st.integers(1, 5))
    def publish(self, data, n):
        node, key = data.draw(st.sampled_from(sorted(where for where, stream in self.streams.items() if stream[4])))
        self._publish(node, key, n)

    def _publish(self, node, key, n):
        stream = self.streams[node, key]
        stop = min(stream[3], stream[2] + n)
        self.queues[node].extend((key, stream[1], row) for row in range(stream[2], stop))
        self.books[node].published(stream[1], stop - stream[2])
        stream[2] = stop
        self._check_done(node, key)

    @rule(node=st.sampled_from(NODES), key=st.sampled_from(KEYS))
    def task_dies(self, node, key):
        if (node, key) in self.streams:
            self.streams[node, key][4] = False

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def asker_dies(self, data):
        """The answer comes to nobody."""
        del self.asked[data.draw(st.sampled_from(sorted(self.asked)))]

    @rule(node=st.sampled_from(NODES), broken=st.booleans())
    def reconnect(self, node, broken):
        """Agents ask again what was not answered, and tell again what their last life has left; fences come again. What was on
        its way is lost, or comes as well."""
        if broken:
            self.to_node = [message for message in self.to_node if message.node != node]
            self.to_ledger = [message for message in self.to_ledger if message[1] != node or message[0] == "lost"]
        self.to_node.extend(self.ledger.fences_at(node))
        self.to_ledger.extend(("open", node, key, attempt) for (key, attempt), where in self.asked.items() if where == node)

    @rule(node=st.sampled_from(NODES), n=st.integers(1, 6), data=st.data())
    def hand_out(self, node, n, data):
        """Lanes may overtake each other, by the carry; inside of a lane the order holds."""
        for _ in range(n):
            lanes = sorted({lane for _, lane, _ in self.queues[node]})
            if not lanes:
                return
            lane = data.draw(st.sampled_from(lanes))
            row = next(row for row in self.queues[node] if row[1] == lane)
            self.queues[node].remove(row)
            self.handed[node].append((row[0], row[2]))
            self.trails[node].note(lane, 1)

    @rule(node=st.sampled_from(NODES), back=st.integers(0, 5))
    def commit(self, node, back):
        """Of some rows that were handed out the program knows nothing yet."""
        kept = max(0, len(self.handed[node]) - back)
        trail = self.trails[node]
        rows = trail.total - len(self.handed[node]) + kept
        self.books[node].commit(0, False, trail.counts(rows))
        trail.committed(rows)
        self.safe += self.handed[node][:kept]
        self.settled[node] += kept
        del self.handed[node][:kept]

    @rule(node=st.sampled_from(NODES))
    def reader_dies(self, node):
        book = self.books[node]
        self.to_ledger.append(("lost", node, book.frontier(), book.lost()))
        self.books[node], self.trails[node] = Deliveries(keep=True, total=self.tallies[node]), Trail()
        self.queues[node].clear()
        self.handed[node].clear()
        self.streams = {where: stream for where, stream in self.streams.items() if where[0] != node}
        self.asked = {which: where for which, where in self.asked.items() if where != node}  # the answer comes too late

    @precondition(lambda self: not (self.to_ledger or self.to_node or self.asked))
    @rule()
    def job_ends(self):
        entries = self.ledger.entries
        if entries and all(entry.state is PartitionState.DONE for entry in entries.values()) and len(entries) == len(KEYS):
            self.ledger.close("j")
            for book in self.books.values():
                book.end_epoch()

    @invariant()
    def no_row_twice(self):
        rows = list(self.safe)
        for node in NODES:
            rows += self.handed[node]
            rows += [(key, row) for key, _, row in self.queues[node]]
        assert max(Counter(rows).values(), default=1) == 1

    @invariant()
    def commits_are_counted(self):
        assert {node: tally.settled for node, tally in self.tallies.items()} == self.settled

    def teardown(self):
        """Whatever happened, further attempts bring the rest."""
        for _ in range(20):
            self.network_is_quick()
            for (node, key), stream in list(self.streams.items()):
                if stream[4]:
                    self._publish(node, key, ROWS)
            left = [key for key in KEYS if "j" not in self.ledger.closed and self._unfinished(key)]
            if not (left or self.to_ledger):
                break
            for key in left:
                self.launch(key, NODES[0])
        assert not left
        rows = list(self.safe)
        for node in NODES:
            rows += self.handed[node]
            rows += [(key, row) for key, _, row in self.queues[node]]
        assert sorted(rows) == [(key, row) for key in KEYS for row in range(ROWS)]

    def _unfinished(self, key):
        entry = self.ledger.entries.get(key)
        lost = int(key[2:]) in self.ledger.unfinished("j")
        return (
            (entry is None and not self.ledger.entries)
            or lost
            or (entry is not None and entry.state is not PartitionState.DONE)
            or (entry is None and not any(row[0] == key for row in self._everything()))
        )

    def _everything(self):
        rows = list(self.safe)
        for node in NODES:
            rows += self.handed[node] + [(key, row) for key, _, row in self.queues[node]]
        return rows


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)


# ---- who is started again ----------------------------------------------------------------------------------------------------


def test_a_node_is_started_again_so_often():
    restarts = Restarts(1)
    assert restarts.fell("ps:0", 0, NODES) == [Halt("ps:0", 0)]
    assert restarts.fell("ps:0", 0, NODES) == []  # told again
    assert restarts.under_way("ps:0")
    assert restarts.halted("ps:0", 0, 3) == [Begin("ps:0", 1, 3)]
    assert restarts.halted("ps:0", 0, 3) == []
    assert restarts.fell("ps:0", 1, NODES) is None
    assert restarts.fell("worker:0", 0, NODES) == [Halt("worker:0", 0)]  # each by itself


def test_a_group_begins_together_when_the_last_one_is_dead():
    restarts = Restarts(1, "group")
    assert restarts.fell("worker:1", 0, NODES) == [Halt("worker:0", 0), Halt("worker:1", 0)]
    assert restarts.fell("worker:0", 0, NODES) == []  # it was killed, or could not go on
    assert restarts.halted("worker:1", 0, 2) == []
    assert restarts.halted("worker:0", 0, 1) == [Begin("worker:0", 1, 1), Begin("worker:1", 1, 1)]
    assert restarts.fell("worker:0", 1, NODES) is None


def test_a_node_between_two_lives_joins_the_round_of_its_group():
    restarts = Restarts(2)
    restarts.fell("worker:0", 0, NODES)
    assert restarts.fell("worker:1", 0, NODES, group=True) == [Halt("worker:1", 0)]
    assert restarts.halted("worker:0", 0, 0) == []
    assert restarts.halted("worker:1", 0, 0) == [Begin("worker:0", 1, 0), Begin("worker:1", 1, 0)]


def test_an_open_end_is_behind_every_row():
    assert join([(5, OPEN)], [(0, 5)]) == [(0, OPEN)]
