"""The feed as a pure object: simulated writers and a reader drive it with messages, and die, in any order."""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tfos_fast.channel.broker.feed import Feed
from tfos_fast.channel.broker.slot_table import State
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.messages import INPUT
from tfos_fast.channel.schema.columns import Column, Schema

NUMBERS = {"p": 1, "q": 1, "r": 2}  # of the feeds that partitions belong to
INTS = Schema("bare", (Column("c0", "fixed", "int64"),))
FLOATS = Schema("bare", (Column("c0", "fixed", "float64"),))


class Writer:
    """What a writer knows: what the broker told it, in order."""

    def __init__(self, peer: bytes) -> None:
        self.peer = peer
        self.inbox: deque[Any] = deque()
        self.granted: list[int] = []
        self.wanted = False
        self.opening = False
        self.stream: int | None = None
        self.key = ""
        self.at = 0  # the partition's next row
        self.agreed: int | None = None
        self.fenced = False
        self.terminated = False
        self.yields = False  # another feed needs its place


class FeedMachine(RuleBasedStateMachine):
    """Writers, a reader and the owner, each with an inbox that is read late."""

    @initialize(n=st.integers(4, 8), form=st.booleans())
    def make(self, n: int, form: bool) -> None:
        self.feed = Feed(n, form=m.Form("columns", 8) if form else None)
        self.feed.recovers = True
        self.feed.number_of = NUMBERS.__getitem__
        self.settled = dict.fromkeys(NUMBERS, 0)  # rows that commits of all lives cover
        self.before = dict.fromkeys(NUMBERS, 0)  # of these, those of lives that are over
        self.handed: dict[int, int] = {}  # lane -> rows since the last commit
        self.n = n
        self.writers: dict[bytes, Writer] = {}
        self.reader: bytes | None = None
        self.reader_inbox: deque[Any] = deque()
        self.reader_left = False
        self.held: dict[int, m.Deliver] = {}  # the reader's leases
        self.untaken: set[int] = set()
        self.contents: dict[int, list[tuple[str, int]]] = {}  # slot -> rows that were packed into it
        self.delivered: dict[str, list[int]] = {}
        self.lanes: dict[int, str] = {}
        self.published: dict[str, int] = {}
        self.attempts: dict[str, int] = {}
        self.count = 0
        self.stopped = False  # terminated
        self.late = dict.fromkeys(NUMBERS, 0)  # rows that were published then
        self.dead = False  # the feed has failed

    def deliver(self) -> None:
        for peer, message in self.feed.outbox:
            if peer in self.writers:
                self.writers[peer].inbox.append(message)
            elif peer == self.reader:
                self.reader_inbox.append(message)
        self.feed.outbox.clear()

    def say(self, peer: bytes, message: Any) -> None:
        self.feed.handle(peer, message)
        self.deliver()

    def live(self) -> list[bytes]:
        return sorted(self.writers)

    # ---- writers ----

    @precondition(lambda self: len(self.writers) < 4)
    @rule()
    def attach(self) -> None:
        self.count += 1
        peer = f"w{self.count}".encode()
        self.writers[peer] = Writer(peer)
        self.feed.hello(peer, m.Hello("writer", self.count, 1))
        self.deliver()

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), key=st.sampled_from("pqr"))
    def open(self, data: st.DataObject, key: str) -> None:
        writer = self.writers[data.draw(st.sampled_from(self.live()))]
        self.pump(writer)
        if writer.stream is not None or writer.opening or writer.fenced:
            return
        attempt = self.attempts.get(key, -1) + 1
        self.attempts[key] = attempt
        writer.opening, writer.key = True, key
        self.say(writer.peer, m.OpenPartition(key, attempt, False))

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), floats=st.booleans())
    def propose(self, data: st.DataObject, floats: bool) -> None:
        writer = self.writers[data.draw(st.sampled_from(self.live()))]
        self.pump(writer)
        if writer.stream is not None:
            self.say(writer.peer, m.Propose(FLOATS if floats else INTS))
            self.pump(writer)

    @precondition(lambda self: self.writers)
    @rule(data=st.data())
    def want(self, data: st.DataObject) -> None:
        writer = self.writers[data.draw(st.sampled_from(self.live()))]
        self.pump(writer)
        if writer.stream is not None and not writer.wanted and len(writer.granted) < 2:
            writer.wanted = True
            self.say(writer.peer, m.Want(INPUT))

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), rows=st.integers(1, 9), looks=st.booleans())
    def publish(self, data: st.DataObject, rows: int, looks: bool) -> None:
        writer = self.writers[data.draw(st.sampled_from(self.live()))]
        if looks:
            self.pump(writer)
        if writer.stream is None or not writer.granted or writer.agreed is None:
            return
        slot = writer.granted.pop(0)
        assert slot not in self.held, "a slot was granted that the reader's arrays alias"
        accepted = self.feed._streams.get(writer.stream)
        assert accepted is not None
        counts = not (accepted.fenced or self.stopped)
        self.contents[slot] = [(writer.key, row) for row in range(writer.at, writer.at + rows)]
        writer.at += rows
        if counts:
            self.published[writer.key] = writer.at
        elif not accepted.fenced:
            self.late[writer.key] += rows
        self.say(writer.peer, m.Publish(slot, writer.stream, rows, 16, writer.agreed))

    @precondition(lambda self: self.writers)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        writer = self.writers[data.draw(st.sampled_from(self.live()))]
        if writer.stream is None:
            return
        stream, writer.stream = writer.stream, None
        writer.granted.clear()
        self.say(writer.peer, m.ClosePartition(stream, writer.at))
        assert self.feed.table.in_hand(writer.peer) == 0

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), died=st.booleans())
    def leave(self, data: st.DataObject, died: bool) -> None:
        peer = data.draw(st.sampled_from(self.live()))
        del self.writers[peer]
        self.feed.leave(peer, died=died)
        self.deliver()
        assert peer not in self.feed.table.owner

    @rule(on=st.booleans())
    def make_yield(self, on: bool) -> None:
        self.feed.make_yield(on)
        self.deliver()

    @precondition(lambda self: self.writers)
    @rule(data=st.data())
    def make_way(self, data: st.DataObject) -> None:
        """A writer whose task ends early leaves its partition; the next attempt goes on behind what was published."""
        writer = self.writers[data.draw(st.sampled_from(self.live()))]
        self.pump(writer)
        if writer.yields and writer.stream is not None:
            del self.writers[writer.peer]
            self.feed.leave(writer.peer, died=False)
            self.deliver()

    @precondition(lambda self: self.writers)
    @rule(data=st.data())
    def listen(self, data: st.DataObject) -> None:
        self.pump(self.writers[data.draw(st.sampled_from(self.live()))])

    def pump(self, writer: Writer) -> None:
        while writer.inbox:
            message = writer.inbox.popleft()
            if isinstance(message, m.Opened):
                writer.opening = False
                writer.granted.clear()
                writer.wanted = False
                writer.stream, writer.at = message.stream, message.skip
                assert message.skip == self.published.get(writer.key, 0)
                stream = self.feed._streams.get(message.stream)
                assert stream is not None
                assert self.lanes.setdefault(stream.lane, writer.key) == writer.key
            elif isinstance(message, m.Granted):
                writer.granted.extend(message.slots)
                writer.wanted = False
            elif isinstance(message, m.Agreed):
                writer.agreed = message.schema_id
            elif isinstance(message, m.Shut):
                if message.stream == writer.stream:
                    writer.fenced = True
            elif isinstance(message, m.Terminated):
                writer.terminated = True
            elif isinstance(message, m.Yield):
                writer.yields = message.on
            elif isinstance(message, m.Refused) and message.kind == "Yielded":
                assert writer.opening
                writer.opening = False

    # ---- the reader ----

    @precondition(lambda self: self.reader is None and not self.dead)
    @rule()
    def read(self) -> None:
        self.count += 1
        self.reader = f"r{self.count}".encode()
        self.reader_inbox.clear()
        self.feed.hello(self.reader, m.Hello("reader", self.count, 1))
        self.say(self.reader, m.OpenReader(m.Form("columns", 8), True))

    @precondition(lambda self: self.reader_inbox)
    @rule(release=st.booleans())
    def take(self, release: bool) -> None:
        message = self.reader_inbox.popleft()
        if not isinstance(message, m.Deliver) or self.reader is None:
            return
        assert self.feed.table.state[message.slot] is State.DELIVERED
        rows = self.contents[message.slot]
        assert len(rows) == message.rows
        if not self.stopped:
            assert self.lanes[message.stream] == rows[0][0]
            self.delivered.setdefault(rows[0][0], []).extend(row for _, row in rows)
            self.handed[message.stream] = self.handed.get(message.stream, 0) + len(rows)
        self.held[message.slot] = message
        self.say(self.reader, m.Done([message.slot], [message.slot] if release else []))
        if release:
            del self.held[message.slot]

    @precondition(lambda self: self.held and self.reader is not None)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.held)))
        del self.held[slot]
        assert self.reader is not None
        self.say(self.reader, m.Done([], [slot]))

    @precondition(lambda self: self.reader is not None and self.handed)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """Of some rows that were handed out the program knows nothing yet."""
        assert self.reader is not None
        peer = b"c" + self.reader
        if peer not in self.feed.peers:
            self.feed.hello(peer, m.Hello("control", int(self.reader[1:]), 1))
        covered = {lane: data.draw(st.integers(0, rows)) for lane, rows in sorted(self.handed.items())}
        for lane, rows in covered.items():
            self.handed[lane] -= rows
            self.settled[self.lanes[lane]] += rows
        self.say(peer, m.Commit(0, False, list(covered.items())))

    @precondition(lambda self: self.reader is not None and not self.stopped and self.handed)
    @rule()
    def restart(self) -> None:
        """The reader dies, and another one will come: what its commits do not cover does not count any more."""
        assert self.reader is not None
        for peer in (self.reader, b"c" + self.reader):
            self.feed.leave(peer, died=True)
        self.feed.restart()
        self.reader = None
        for forgotten in (self.held, self.handed, self.delivered, self.published, self.reader_inbox):
            forgotten.clear()
        self.before = dict(self.settled)
        for writer in self.writers.values():
            writer.agreed = None
            writer.inbox = deque(message for message in writer.inbox if not isinstance(message, m.Agreed))
            if writer.opening and any(isinstance(message, m.Opened) for message in writer.inbox):
                writer.inbox = deque(message for message in writer.inbox if not isinstance(message, m.Opened))
                writer.opening, writer.fenced = False, True
        self.deliver()

    @precondition(lambda self: self.reader is not None and not self.stopped)
    @rule()
    def starve(self) -> None:
        assert self.reader is not None
        self.say(self.reader, m.Starving())
        self.say(self.reader, m.Starving())
        for writer in self.writers.values():
            assert sum(isinstance(message, m.Flush) for message in writer.inbox) <= 2 + len(self.attempts) * 9

    @precondition(lambda self: self.reader is not None and self.delivered)
    @rule()
    def pin(self) -> None:
        assert self.reader is not None
        self.say(self.reader, m.Pin())

    @precondition(lambda self: self.reader is not None and self.count > 12)
    @rule(how=st.sampled_from(["terminate", "close", "die"]))
    def stop(self, how: str) -> None:
        assert self.reader is not None
        if how == "terminate":
            self.say(self.reader, m.Terminate())
        else:
            self.feed.recovers = False
            self.feed.leave(self.reader, died=how == "die")
            self.reader = None
            self.deliver()
            if how == "die":
                self.dead = True
                self.held.clear()
                assert self.feed.failure is not None
        self.stopped = True

    @rule()
    def end_epoch(self) -> None:
        self.feed.end_epoch()
        self.deliver()

    # ---- what always holds ----

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "feed"):
            return
        table = self.feed.table
        assert sum(table.counts().values()) == self.n
        for slot in range(self.n):
            state, owner = table.state[slot], table.owner[slot]
            assert (owner is None) == (state in (State.FREE, State.READY))
            assert owner is None or owner in self.feed.peers
        # What is counted are the rows of this life, and those of earlier ones that do not come again.
        for tally, keys in (
            (self.feed.total, list(NUMBERS)),
            (self.feed.newest, [key for key in NUMBERS if NUMBERS[key] == self.feed.newest.number]),
        ):
            before = sum(self.before[key] for key in keys)
            assert tally.published == before + sum(self.published.get(key, 0) + self.late[key] for key in keys)
            assert tally.taken == before + sum(len(self.delivered.get(key, [])) for key in keys)
            assert tally.settled == sum(self.settled[key] for key in keys)
        # Every row that was published reaches the reader once and in its partition's order.
        for rows in self.delivered.values():
            assert rows == list(range(len(rows)))
        # A writer that waits and has nothing gets a slot when one is free.
        if not self.feed.failure and not self.stopped and table.available(INPUT) > 0:
            for peer in self.feed._grants.waiting():
                assert table.in_hand(peer) > 0
        # While writers make way nobody waits in the broker for a form that may not come.
        assert not (self.feed.yielding and any(peer.waiting is not None for peer in self.feed.peers.values()))
        # Whoever was never told a form holds nothing.
        if self.feed.form is None:
            assert table.counts()["free"] == self.n

    def teardown(self) -> None:
        if not hasattr(self, "feed") or self.stopped:
            return
        if self.reader is None:
            self.read()
        while self.reader_inbox:
            self.take(True)
        assert {key: len(rows) for key, rows in self.delivered.items()} == {k: v for k, v in self.published.items() if v}
        for peer in self.live():
            self.feed.leave(peer, died=True)
        assert self.reader is not None
        self.say(self.reader, m.Done([], sorted(self.held)))
        assert self.feed.table.counts()["free"] == self.n
        assert self.feed.rows_taken == self.feed.rows_published == sum(self.published.values()) + sum(self.before.values())


TestFeed = FeedMachine.TestCase
TestFeed.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
