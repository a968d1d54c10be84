"""Steps in common: the broker's count against what the assembler and the window really give, and the agreement against a model of
nodes, tasks that are tried again, and a network that delays everything but keeps order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tfos_fast.channel.broker.step_count import StepCount
from tfos_fast.channel.protocol.lockstep import Gate, Pace
from tfos_fast.channel.reader.assemble import Assembler, Slot
from tfos_fast.channel.reader.shuffle_window import Window
from tfos_fast.cluster.coordinator.lockstep import AskSettle, StepAgreement, Tell

HOSTS = {"worker:0": "here", "worker:1": "here", "worker:2": "there"}


class Reader:
    """A reader as it cuts batches: a queue of slots, ends of lanes and settles, and the real assembler or window behind."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.queue: list[tuple[str, int, int]] = []
        self.assembler = Assembler()
        self.window = Window(pace.window or 1, np.random.default_rng(0), most_held=2)
        self.draining = False

    def batch(self) -> int | None:
        """Rows of the next batch; None: nothing can be made of what has come."""
        while True:
            if self.pace.window:
                drawn = self.window.draw(self.pace.batch, last=self.draining)
                if drawn is not None and not (self.pace.drop and drawn[1] < self.pace.batch):
                    return drawn[1]
                if drawn is None:
                    self.draining = False
            else:
                taken = self.assembler.take(self.pace.batch)
                if taken is not None:
                    return taken.rows
                if not self.assembler.wants_slot:
                    continue
            if not self.queue:
                return None
            kind, lane, rows = self.queue.pop(0)
            if kind == "slot" and self.pace.window:
                self.window.push({"x": np.zeros(rows)}, rows, held=False)
            elif kind == "slot":
                self.assembler.push(Slot(lane, rows, lambda start, stop: {"x": np.zeros(stop - start)}, True))
            elif kind == "end":
                self.assembler.end_stream(lane)
            elif self.pace.window:
                self.draining = True
            elif (rest := self.assembler.rest(self.pace.batch)) is not None:
                self.queue.insert(0, (kind, lane, rows))
                if not (self.pace.drop and rest.rows < self.pace.batch):
                    return rest.rows


PACES = st.builds(
    Pace,
    st.sampled_from(["stop", "pad"]),
    batch=st.integers(1, 7),
    group=st.integers(1, 3),
    window=st.sampled_from([0, 0, 1, 5, 12]),
    drop=st.booleans(),
).map(lambda pace: pace if pace.uneven == "stop" else Pace("pad", pace.batch, pace.group, pace.window))


@settings(max_examples=300)
@given(PACES, st.lists(st.one_of(st.tuples(st.integers(0, 3), st.integers(1, 20)), st.integers(-1, 3)), max_size=30))
def test_the_count_is_what_the_reader_can_make(pace, events):
    """Events: (lane, rows) of a slot; a lane that ends; -1: settle."""
    count, reader = StepCount(pace), Reader(pace)
    elements, used, settled = 0, [0], False
    for event in [*events, -1]:
        if isinstance(event, tuple):
            settled = False
            count.published(*event)
            reader.queue.append(("slot", *event))
        elif event == -1:
            settled = True
            count.settle()
            reader.queue.append(("settle", 0, 0))
        else:
            count.ended(event)
            reader.queue.append(("end", event, 0))
        while (rows := reader.batch()) is not None:
            elements += 1
            used.append(used[-1] + rows)
        whole, left = divmod(elements, pace.group)
        assert count.steps == whole + (left > 0 and settled and pace.uneven == "pad")
    for steps in range(count.steps + 1):
        assert count.used(steps) == used[min(steps * pace.group, elements)]
    if not pace.drop:
        assert used[-1] == count.rows


def test_rows_that_come_after_all_are_for_steps_behind_those_agreed_on():
    count = StepCount(Pace("pad", 4))
    count.published(0, 6)
    count.settle()
    assert count.steps == 2
    count.reopen(5)
    count.published(1, 9)
    assert count.steps == 7
    count.settle()
    assert (count.steps, count.used(8)) == (8, 15)
    count.next_epoch()
    assert (count.steps, count.rows) == (0, 0)


def test_word_of_the_next_epoch_waits_until_the_reader_is_there():
    gate = Gate(Pace("stop", 4, group=2))
    assert (gate.room, gate.over) == (0, False)
    gate.agree(0, 3, False)
    gate.agree(1, 2, True)
    gate.done = 5
    assert (gate.room, gate.over) == (1, False)
    gate.agree(0, 3, True)
    gate.agree(0, 9, False)  # late word
    gate.done = 6
    assert (gate.room, gate.over) == (0, True)
    gate.next_epoch()
    assert (gate.room, gate.over) == (4, False)


def agreement(uneven: str, total: int | None = None, nodes: int = 2) -> StepAgreement:
    it = StepAgreement()
    it.begin("f/0", dict(list(HOSTS.items())[:nodes]))
    for name in list(HOSTS)[:nodes]:
        assert it.join(name, Pace(uneven, 4)) == ""
    if total is not None:
        it.partitions(total)
    return it


def test_nodes_stop_at_the_first_that_is_dry():
    it = agreement("stop", total=2)
    it.opened("worker:0", "f/0/0")
    it.ready("worker:0", 0, 30, 0)
    assert it.actions() == []
    it.done("f/0/1")  # empty: so nothing is left for worker:1
    assert it.actions() == [AskSettle("worker:1", 0, 1)]
    it.ready("worker:1", 0, 0, 1)
    assert it.actions() == [Tell("worker:0", 0, 0, True), Tell("worker:1", 0, 0, True)]
    assert it.over


def test_nodes_that_pad_go_on_until_the_last_is_dry():
    it = agreement("pad", total=2)
    it.opened("worker:0", "f/0/0")
    it.opened("worker:1", "f/0/1")
    it.ready("worker:0", 0, 3, 0)
    it.ready("worker:1", 0, 2, 0)
    assert it.actions() == [Tell("worker:0", 0, 2, False), Tell("worker:1", 0, 2, False)]
    it.done("f/0/1")
    assert it.actions() == [AskSettle("worker:1", 0, 1)]
    it.ready("worker:1", 0, 2, 1)
    assert it.actions() == [Tell("worker:0", 0, 3, False), Tell("worker:1", 0, 3, False)]
    it.ready("worker:0", 0, 9, 0)
    it.done("f/0/0")
    it.actions()
    it.ready("worker:0", 0, 10, 1)
    assert it.actions() == [Tell("worker:0", 0, 10, True), Tell("worker:1", 0, 10, True)]


def test_a_partition_left_in_spark_may_come_to_any_node():
    it = agreement("stop", total=3)
    it.opened("worker:0", "f/0/0")
    it.done("f/0/1")
    assert it.actions() == []
    it.finish()  # the job is over without it
    assert it.actions() == [AskSettle("worker:0", 0, 1), AskSettle("worker:1", 0, 1)]


def test_a_node_that_leaves_ends_the_epoch_for_all():
    it = agreement("stop")
    it.ready("worker:0", 0, 5, 0)
    it.ready("worker:1", 0, 3, 0)
    it.actions()
    it.gone("worker:1")
    assert it.actions() == [Tell("worker:0", 0, 3, True)]
    it.begin("f/1", {})
    assert it.actions() == [Tell("worker:0", 1, 0, True)]


def test_who_does_not_go_in_step_is_named():
    it = StepAgreement()
    it.begin("f/0", dict(list(HOSTS.items())[:2]))
    it.join("worker:0", Pace("stop", 4))
    it.ready("worker:0", 0, 5, 0)
    assert it.actions() == []
    assert it.absent() == "worker:0 waits for worker:1 to read its feed with uneven=, too, so that they go in step"
    assert "all must agree" in it.join("worker:1", Pace("pad", 4))


def test_partitions_that_the_job_does_not_have_count_for_nothing():
    it = agreement("stop", total=2)
    for key in ("f/0/2", "f/0/-1", "f/0/x", "f/0/", "f/0/²", "f/0/" + "9" * 30, "f/1/0", "0"):
        it.done(key)
        it.opened("worker:0", key)
        assert it.better("worker:0", key) == ""
    assert it.actions() == [], "both partitions are still to come"
    it.done("f/0/0")
    it.done("f/0/1")
    assert it.actions() == [AskSettle("worker:0", 0, 1), AskSettle("worker:1", 0, 1)]


def test_a_second_partition_goes_to_the_node_of_the_host_that_has_none():
    it = agreement("stop", nodes=3)
    assert it.better("worker:0", "f/0/0") == ""
    it.opened("worker:0", "f/0/0")
    assert it.better("worker:0", "f/0/1") == "worker:1"
    assert it.better("worker:2", "f/0/1") == ""
    it.opened("worker:1", "f/0/1")
    assert it.better("worker:0", "f/0/2") == ""


class Node:
    """The broker's and the reader's side of a node."""

    def __init__(self, pace: Pace) -> None:
        self.count, self.gate, self.reader = StepCount(pace), Gate(pace), Reader(pace)
        self.turn = self.agreed = 0
        self.used = self.padded = 0
        self.inbox: list = []
        self.outbox: list = []

    def report(self) -> None:
        self.outbox.append(("ready", self.count.steps, self.turn))


class Training(RuleBasedStateMachine):
    """Nodes that read one epoch in step while tasks come, publish, fail and are tried again elsewhere."""

    @initialize(pace=PACES, partitions=st.integers(0, 4), known=st.sampled_from([True, True, False]))
    def begin(self, pace, partitions, known):
        self.pace = pace
        self.agreement = StepAgreement()
        self.agreement.begin("f/0", HOSTS)
        self.known = known
        if known:
            self.agreement.partitions(partitions)
        self.nodes = {name: Node(pace) for name in HOSTS}
        for node in self.nodes.values():
            node.outbox.append(("join",))
        self.waiting = [f"f/0/{i}" for i in range(partitions)]  # Spark has not launched them (again)
        self.opening: set[str] = set()
        self.open: dict[str, tuple[str, int]] = {}  # key -> node and lane
        self.lanes = 0
        self.published = 0
        self.over = False

    def act(self) -> None:
        for action in self.agreement.actions():
            self.nodes[action.node].inbox.append(action)
            if isinstance(action, AskSettle):
                assert self.known, "partitions may be left in Spark"
                assert not any(node == action.node for node, _ in self.open.values()), "it may get rows"

    def publish(self, key: str, rows: int) -> None:
        name, lane = self.open[key]
        node = self.nodes[name]
        node.count.published(lane, rows)
        node.reader.queue.append(("slot", lane, rows))
        self.published += rows
        node.report()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def launch(self, data):
        key = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(key)
        if data.draw(st.integers(0, 4)) == 0:
            self.agreement.done(key)  # empty
        else:
            name = data.draw(st.sampled_from(sorted(self.nodes)))
            name = self.agreement.better(name, key) or name
            self.agreement.opened(name, key)
            self.opening.add(key)
            self.nodes[name].inbox.append(key)  # Opened
        self.act()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), rows=st.integers(1, 30))
    def feed(self, data, rows):
        self.publish(data.draw(st.sampled_from(sorted(self.open))), rows)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), whole=st.booleans())
    def leave(self, data, whole):
        """A task ends, or fails and is tried again."""
        key = data.draw(st.sampled_from(sorted(self.open)))
        name, lane = self.open.pop(key)
        if not whole:
            self.waiting.append(key)
            return
        node = self.nodes[name]
        node.count.ended(lane)
        node.reader.queue.append(("end", lane, 0))
        node.report()
        node.outbox.append(("done", key))

    @rule(name=st.sampled_from(sorted(HOSTS)))
    def exchange(self, name):
        """Messages travel, all of them."""
        for _ in range(20):
            self.to_node(name)
            self.to_coordinator(name)

    @rule(name=st.sampled_from(sorted(HOSTS)))
    def to_coordinator(self, name):
        if self.nodes[name].outbox:
            kind, *what = self.nodes[name].outbox.pop(0)
            if kind == "join":
                assert self.agreement.join(name, self.pace) == ""
            elif kind == "ready":
                self.agreement.ready(name, 0, *what)
            else:
                self.agreement.done(*what)
            self.act()

    @rule(name=st.sampled_from(sorted(HOSTS)))
    def to_node(self, name):
        node = self.nodes[name]
        if not node.inbox:
            return
        match node.inbox.pop(0):
            case Tell(_, epoch, steps, end):
                node.agreed = steps
                node.gate.agree(epoch, steps, end)
            case AskSettle(_, _, turn):
                node.turn = turn
                node.count.settle()
                node.reader.queue.append(("settle", 0, 0))
                node.report()
            case str(key):
                assert key in self.opening
                if node.turn:
                    node.turn = 0
                    node.count.reopen(node.agreed)
                self.opening.remove(key)
                self.open[key] = (name, self.lanes)
                self.lanes += 1

    @rule(name=st.sampled_from(sorted(HOSTS)))
    def step(self, name):
        """A batch of a step, if it may be handed out. Then it can."""
        node = self.nodes[name]
        if node.gate.room <= 0:
            return
        rows = node.reader.batch()
        if rows is None:
            assert self.pace.uneven == "pad", "a batch that was agreed on cannot be made"
            node.padded += 1
        node.used += rows or 0
        node.gate.done += 1

    @invariant()
    def every_node_can_do_what_was_agreed_on(self):
        if not hasattr(self, "nodes") or self.pace.uneven == "pad":
            return
        assert self.agreement.steps <= min(node.count.steps for node in self.nodes.values())

    def teardown(self):
        """Everything ends: all end at the same step, for a reason."""
        if not hasattr(self, "nodes"):
            return
        launched = 0
        for _ in range(1000):
            while self.waiting:
                key, name = self.waiting.pop(), sorted(HOSTS)[launched % 3]
                launched += 1
                self.agreement.opened(name, key)
                self.opening.add(key)
                self.nodes[name].inbox.append(key)
                self.act()
            for name, node in self.nodes.items():
                while node.inbox:
                    self.to_node(name)
                while node.outbox:
                    self.to_coordinator(name)
                while node.gate.room > 0:
                    self.step(name)
            for key in sorted(self.open):
                name, lane = self.open.pop(key)
                self.nodes[name].count.ended(lane)
                self.nodes[name].reader.queue.append(("end", lane, 0))
                self.nodes[name].outbox += [("done", key)]
                self.nodes[name].report()
            busy = self.opening or any(node.inbox or node.outbox for node in self.nodes.values())
            if not busy and not self.known:
                self.known = True
                self.agreement.finish()
                self.act()
            elif not busy:
                break
        nodes = self.nodes.values()
        assert all(node.gate.over for node in nodes)
        assert {node.gate.done for node in nodes} == {self.agreement.steps * self.pace.group}
        if self.pace.uneven == "pad":
            assert sum(node.used for node in nodes) == self.published
        else:
            assert any(node.turn or node.count.steps == self.agreement.steps for node in nodes)
            for node in nodes:
                assert node.used == node.count.used(self.agreement.steps)


Training.TestCase.settings = settings(max_examples=200, stateful_step_count=80, deadline=None)
TestTraining = Training.TestCase
pytestmark = pytest.mark.timeout(120)
