"""The delivery ledger against a model: nodes that publish rows, attempts that come and are replaced, answers that come late."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from tfos_fast.channel.protocol.row_spans import NOWHERE
from tfos_fast.cluster.coordinator.ledger import MOST_PARTITIONS, AskFence, Grant, Ledger, PartitionState, Refuse

NODES = ["worker:0", "worker:1", "worker:2"]
ROWS = 20  # of each partition


def test_first_attempt_starts_at_the_beginning():
    assert Ledger().open("worker:0", "f1/7", 3) == [Grant("worker:0", "f1/7", 3, 0)]


def test_newer_attempt_waits_for_the_fence_and_skips_what_was_published():
    ledger = Ledger()
    ledger.open("worker:0", "f1/7", 3)
    assert ledger.open("worker:1", "f1/7", 5) == [AskFence("worker:0", "f1/7", 5)]
    assert ledger.fenced("worker:0", "f1/7", 5, (3, 12)) == [Grant("worker:1", "f1/7", 5, 12)]
    assert ledger.fenced("worker:0", "f1/7", 5, (3, 12)) == []  # the answer came twice


def test_older_attempt_is_refused():
    ledger = Ledger()
    ledger.open("worker:0", "f1/7", 5)
    (answer,) = ledger.open("worker:0", "f1/7", 4)
    assert isinstance(answer, Refuse)
    assert "replaced by attempt 5" in answer.text


def test_an_attempt_that_never_opened_keeps_the_watermark_before_it():
    ledger = Ledger()
    ledger.open("worker:0", "f1/7", 1)
    ledger.open("worker:1", "f1/7", 2)
    ledger.fenced("worker:0", "f1/7", 2, (1, 9))
    ledger.open("worker:2", "f1/7", 3)
    assert ledger.fenced("worker:1", "f1/7", 3, NOWHERE) == [Grant("worker:2", "f1/7", 3, 9)]


def test_the_answer_to_an_older_fence_is_not_taken_for_the_newest():
    ledger = Ledger()
    ledger.open("worker:0", "f1/7", 1)
    ledger.open("worker:1", "f1/7", 2)
    ledger.open("worker:0", "f1/7", 3)
    ledger.fenced("worker:0", "f1/7", 3, (1, 5))  # worker:0 goes on with attempt 3 ...
    ledger.open("worker:2", "f1/7", 4)
    assert ledger.fenced("worker:0", "f1/7", 2, (1, 5)) == []  # ... and its answer to the fence for attempt 2 comes late
    assert ledger.fenced("worker:0", "f1/7", 4, (3, 9)) == [Grant("worker:2", "f1/7", 4, 9)]


def test_attempt_after_the_end_skips_everything():
    ledger = Ledger()
    ledger.open("worker:0", "f1/7", 1)
    ledger.done("worker:0", "f1/7", 1, 20)
    assert ledger.whole("f1") == {7}
    assert ledger.whole("f") == set()
    assert ledger.open("worker:1", "f1/7", 2) == [Grant("worker:1", "f1/7", 2, 20)]
    assert ledger.published("f1") == (1, 20)
    ledger.close("f1")
    assert ledger.published("f1") == (0, 0)


def test_a_partition_that_ends_when_its_node_takes_no_more_rows_is_not_known_to_be_whole():
    ledger = Ledger()
    for number, eats in enumerate((True, False)):
        ledger.open("worker:0", f"f1/{number}", 1)
        ledger.done("worker:0", f"f1/{number}", 1, 20, eats=eats)
    ledger.open("worker:0", "f1/2", 1)  # goes on
    assert ledger.whole("f1") == {0}


def test_attempts_at_a_complete_partition_are_not_fenced_since_they_have_nothing_to_publish():
    ledger = Ledger()
    ledger.open("worker:0", "f1/7", 1)
    ledger.open("worker:0", "f1/7", 2)
    assert ledger.done("worker:0", "f1/7", 1, 20) == [Grant("worker:0", "f1/7", 2, 20)]
    assert ledger.open("worker:1", "f1/7", 3) == [Grant("worker:1", "f1/7", 3, 20)]


def test_straggler_after_its_job_is_refused():
    ledger = Ledger()
    ledger.open("worker:0", "f1/7", 1)
    ledger.close("f1")
    (answer,) = ledger.open("worker:0", "f1/7", 2)
    assert isinstance(answer, Refuse)
    assert ledger.entries == {}


@pytest.mark.parametrize("number", ["", "x", "-1", "1.5", "²", "9" * 30, str(MOST_PARTITIONS)])
def test_keys_that_no_task_has_are_no_partitions(number: str):
    """Who holds the cluster's key may open them; the driver asks for numbers of partitions."""
    ledger = Ledger()
    for key in ("job/3", f"job/{number}"):
        ledger.open("a", key, 1)
        ledger.done("a", key, 1, 5)
    assert ledger.whole("job") == {3}
    ledger.lost("a", {}, {"job/3": [(0, 5)], f"job/{number}": [(0, 5)]})
    assert ledger.unfinished("job") == {3}


def test_unanswered_fences_are_known_for_a_node_that_reconnects():
    ledger = Ledger()
    ledger.open("worker:0", "f1/7", 1)
    ledger.open("worker:1", "f1/7", 2)
    assert ledger.fences_at("worker:0") == [AskFence("worker:0", "f1/7", 2)]
    assert ledger.fences_at("worker:1") == []


class Delivery(RuleBasedStateMachine):
    """Partitions, attempts at random nodes, and a network between them and the ledger that delays everything but keeps order."""

    attempts = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.clock = 0
        self.asked: dict[tuple[str, int], str] = {}  # (key, attempt) -> node, asked and not answered
        self.active: dict[tuple[str, int], tuple[str, int]] = {}  # (key, attempt) -> (node, next row), those that may publish
        self.published: dict[tuple[str, str], tuple[int, int]] = {}  # (node, key) -> how far the last attempt came there
        self.delivered: dict[str, list[int]] = {}
        self.to_node: list[Grant | AskFence] = []
        self.to_ledger: list[tuple] = []

    def act(self, actions) -> None:
        self.to_node.extend(action for action in actions if not isinstance(action, Refuse))

    @rule(target=attempts, key=st.sampled_from(["j/0", "j/1"]), node=st.sampled_from(NODES))
    def launch(self, key, node):
        self.clock += 1
        self._ask(node, key, self.clock)
        return key, self.clock

    def _ask(self, node, key, attempt):
        self.asked[key, attempt] = node
        self.to_ledger.append(("open", node, key, attempt))

    @rule(node=st.sampled_from(NODES))
    def reconnect(self, node):
        """What was on its way is lost; the agent asks again what was not answered, and the unanswered fences come again."""
        self.to_node = [message for message in self.to_node if message.node != node]
        self.to_ledger = [message for message in self.to_ledger if message[1] != node]
        self.to_node.extend(self.ledger.fences_at(node))
        for (key, attempt), where in list(self.asked.items()):
            if where == node:
                self._ask(node, key, attempt)

    @precondition(lambda self: self.to_ledger)
    @rule()
    def ledger_hears(self):
        kind, *rest = self.to_ledger.pop(0)
        self.act(getattr(self.ledger, kind)(*rest))

    @precondition(lambda self: self.to_node)
    @rule(data=st.data())
    def node_hears(self, data):
        # Order is kept per node only.
        self._deliver(data.draw(st.sampled_from(sorted({message.node for message in self.to_node}))))

    def _deliver(self, node):
        message = next(message for message in self.to_node if message.node == node)
        self.to_node.remove(message)
        where = (node, message.key)
        if isinstance(message, AskFence):
            for key, attempt in list(self.active):
                if key == message.key and attempt < message.attempt and self.active[key, attempt][0] == node:
                    del self.active[key, attempt]
            self.to_ledger.append(("fenced", node, message.key, message.attempt, self.published.get(where, NOWHERE)))
        elif self.asked.pop((message.key, message.attempt), None) is not None:
            self.active[message.key, message.attempt] = (node, message.skip)
            self.published[where] = message.attempt, message.skip

    @precondition(lambda self: self.active)
    @rule(data=st.data(), n=st.integers(1, 9))
    def publish(self, data, n):
        (key, attempt), (node, row) = data.draw(st.sampled_from(sorted(self.active.items())))
        stop = min(ROWS, row + n)
        self.delivered.setdefault(key, []).extend(range(row, stop))
        self.active[key, attempt] = (node, stop)
        self.published[node, key] = attempt, stop
        if stop == ROWS:
            del self.active[key, attempt]
            self.to_ledger.append(("done", node, key, attempt, ROWS))

    @rule(attempt=consumes(attempts))
    def writer_dies(self, attempt):
        self.active.pop(attempt, None)
        self.asked.pop(attempt, None)

    @invariant()
    def every_row_once_and_in_order(self):
        for rows in self.delivered.values():
            assert rows == list(range(len(rows)))

    @invariant()
    def one_attempt_at_a_time(self):
        # Attempts at a partition that is complete have nothing to publish: several may be there.
        keys = [key for (key, _), (_, row) in self.active.items() if row < ROWS]
        assert len(keys) == len(set(keys))

    def teardown(self):
        """Whatever happened, one more attempt brings each partition to its end, once all messages have arrived."""
        for key in ["j/0", "j/1"]:
            self.clock += 1
            last = self.clock
            self._ask(NODES[0], key, last)
            while self.to_ledger or self.to_node:
                if self.to_ledger:
                    self.ledger_hears()
                    continue
                self._deliver(self.to_node[0].node)
            assert self.ledger.entries[key].state in (PartitionState.ACTIVE, PartitionState.DONE)
            assert (key, last) in self.active
            assert self.active[key, last][1] == len(self.delivered.get(key, []))


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
