"""Threads of one program that read rows, give results and ask for the end at the same time."""

from __future__ import annotations

import _thread
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.helpers import ended, in_thread
from tfos_fast.channel import Channel
from tfos_fast.channel.codec.result_arrays import to_results
from tfos_fast.channel.reader.owed import Owed
from tfos_fast.errors import FormError


def by_tensorflow(work: Callable[[], Any]) -> threading.Event:
    """Run on a thread that ``threading`` did not start, as those of tf.data are; set when it has ended."""
    done = threading.Event()

    def run() -> None:
        try:
            work()
        finally:
            done.set()

    _thread.start_new_thread(run, ())
    return done


def exchange(channel: Channel, rows: Any, key: str | None = None) -> list[Any]:
    with channel.writer() as writer:
        return [row for results in writer.exchange(iter(rows), key) for row in results]


@pytest.mark.parametrize("mode", ["rows", "columns"])
def test_results_go_back_while_another_thread_waits_for_rows(mode: Any):
    """Each partition has one row, and the next one begins when its result has come: nobody may wait for the other."""
    with Channel.create(memory="64k", slot_bytes="4k", form=mode, writers=50) as channel:
        feeder, fed = in_thread(lambda: [exchange(channel, [i]) for i in range(50)])
        reader = channel.reader(train_mode=False)
        taken: queue.Queue[Any] = queue.Queue()

        def read() -> None:
            while not reader.ended:
                if mode == "rows":
                    got = reader.next_rows(1)
                else:
                    batch = reader.next_batch(1)
                    got = [] if batch is None else batch.columns["c0"].tolist()
                if got:
                    taken.put(got)

        reading, read_out = in_thread(read)
        for i in range(50):
            assert taken.get(timeout=20) == [i]
            reader.write_results([i * i])
        ended(feeder)
        assert fed == [[[i * i] for i in range(50)]]
        ended(reading)
        assert read_out == [None]
        reader.close()


@pytest.mark.parametrize("form", ["list", "block", "large"])
def test_each_of_many_threads_answers_its_own_rows(form: str):
    """Workers of different speed read and answer; two feeders; asked for the end all the while."""
    workers, rows = 8, 3000
    with Channel.create(memory="256k", slot_bytes="16k", form="rows", writers=2) as channel:
        feeders = [in_thread(lambda i=i: exchange(channel, range(i * 10_000, i * 10_000 + rows), f"p{i}")) for i in range(2)]
        reader = channel.reader(train_mode=False)

        def answers(got: list[int]) -> Any:
            if form == "list":
                return [2 * row for row in got]
            return to_results(np.array([np.full(1 if form == "block" else 300, 2.0 * row) for row in got]))

        def work(number: int) -> int:
            dice, count = random.Random(number), 0
            while not reader.ended:
                got = reader.next_rows(dice.randint(1, 40))
                count += len(got)
                if dice.random() < 0.3:
                    time.sleep(dice.random() * 0.003)
                if got:
                    reader.write_results(answers(got))
            return count

        threads = [in_thread(lambda number=number: work(number)) for number in range(workers)]
        for i, (feeder, out) in enumerate(feeders):
            ended(feeder)
            back = [row if form == "list" else int(row[0]) for row in out[0]]
            assert back == [2 * row for row in range(i * 10_000, i * 10_000 + rows)]
        for thread, _ in threads:
            ended(thread)
        assert sum(out[0] for _, out in threads) == 2 * rows
        reader.close()


def test_threads_that_only_answer_give_results_in_the_order_of_the_rows():
    """TensorFlow's thread reads ahead one by one; two threads of the program take turns in answering."""
    with Channel.create(memory="64k", slot_bytes="4k", form="rows", writers=2) as channel:
        feeders = [in_thread(lambda i=i: exchange(channel, range(i * 10_000, i * 10_000 + 1000), f"p{i}")) for i in range(2)]
        reader = channel.reader(train_mode=False)
        taken: queue.Queue[Any] = queue.Queue(300)

        def read() -> None:
            while not reader.ended:
                for row in reader.next_rows(1):
                    taken.put(row)
            taken.put(None)

        done = by_tensorflow(read)
        turn = threading.Lock()

        def answer() -> None:
            while True:
                with turn:
                    row = taken.get(timeout=20)
                    if row is None:
                        taken.put(None)
                        return
                    reader.write_results([("r", row)])

        threads = [in_thread(answer) for _ in range(2)]
        for i, (feeder, out) in enumerate(feeders):
            ended(feeder)
            assert out == [[("r", row) for row in range(i * 10_000, i * 10_000 + 1000)]]
        for thread, out in threads:
            ended(thread)
            assert out == [None]
        assert done.wait(15)
        reader.close()


def test_terminate_ends_the_wait_of_a_reading_thread_while_another_gives_results():
    with Channel.create(memory="64k", slot_bytes="4k", form="rows") as channel:
        feeder, _ = in_thread(lambda: exchange(channel, range(10)))
        reader = channel.reader(train_mode=False)
        rows = reader.next_rows(4)
        waiting, got = in_thread(lambda: [reader.next_rows(100) for _ in range(3)])
        answering, said = in_thread(lambda: [reader.write_results([row]) for row in rows])
        ended(answering)
        assert said == [[None] * 4]
        reader.terminate()
        ended(waiting)
        assert isinstance(got[0], list)
        assert reader.ended
        reader.close()
        ended(feeder)


def test_results_are_owed_for_rows_of_an_inference_only():
    with Channel.create(memory="64k", slot_bytes="4k", form="rows", writers=3) as channel:
        with channel.writer() as writer:
            writer.write_rows(iter(range(100)))
        reader = channel.reader(train_mode=False)
        rows: list[Any] = []
        while len(rows) < 100:
            rows += reader.next_rows(7)
        feeder, back = in_thread(lambda: exchange(channel, range(5)))
        answered = 0
        while answered < 5:
            got = reader.next_rows(3)
            reader.write_results([-row for row in got])  # nobody gave a result for the 100
            answered += len(got)
        with channel.writer() as writer:
            writer.write_rows(iter(range(9)))
        rows = []
        while not reader.ended:
            rows += reader.next_rows(4)
        assert rows == [*range(9)]
        reader.close()  # and it does not miss results
        ended(feeder)
        assert back == [[0, -1, -2, -3, -4]]


def test_a_program_that_answers_rows_of_training_too():
    with Channel.create(memory="64k", slot_bytes="4k", form="rows", writers=2) as channel:
        with channel.writer() as writer:
            writer.write_rows(iter(range(1000)))
        feeder, back = in_thread(lambda: exchange(channel, range(1000, 2000)))
        reader = channel.reader(train_mode=False)
        while not reader.ended:
            reader.write_results([-row for row in reader.next_rows(64)])
        reader.close()
        ended(feeder)
        assert back == [[-row for row in range(1000, 2000)]]


def test_rows_of_an_inference_still_need_their_results():
    with Channel.create(memory="64k", slot_bytes="4k", form="rows", writers=2) as channel:
        with channel.writer() as writer:
            writer.write_rows(iter(range(10)))
        feeder, _ = in_thread(lambda: exchange(channel, range(10)))
        reader = channel.reader(train_mode=False)
        seen = 0
        while seen < 20:
            seen += len(reader.next_rows(20))
        with pytest.raises(FormError, match="10 rows of an inference"):
            reader.close()
        ended(feeder)


# ---- whose results they are --------------------------------------------------------------------------------------------------


def on(thread: int, monkeypatch: Any) -> None:
    monkeypatch.setattr("tfos_fast.channel.reader.owed.this_thread", lambda: thread)


def test_a_thread_that_ends_has_no_heir():
    """The system gives the number of a thread that has ended to the next one; whose rows they were must not depend on it."""
    owed, out = Owed(), deque()
    for rows in ([(0, 10)], [(0, 10)]):
        thread, _ = in_thread(lambda rows=rows: owed.owe(rows))
        ended(thread)
    for results in ([*range(10)], [*range(10, 20)]):
        thread, said = in_thread(lambda results=results: owed.answer(results, out))
        ended(thread)
        assert said == [None]
    assert [row for _, part in out for row in part] == [*range(20)]


def test_a_worker_that_gives_too_many_is_told(monkeypatch):
    owed, out = Owed(), deque()
    on(1, monkeypatch)
    owed.owe([(0, 5)])
    on(2, monkeypatch)
    owed.owe([(0, 3)])
    with pytest.raises(ValueError, match="4 results for 3 rows that this thread was handed"):
        owed.answer([1, 2, 3, 4], out)
    owed.answer([6, 7, 8], out)
    assert (list(out), owed.rows) == ([], 5)
    on(1, monkeypatch)
    with pytest.raises(ValueError, match="9 results for 5 rows"):
        owed.answer(list(range(9)), out)
    owed.answer([1, 2], out)
    owed.answer([3, 4, 5], out)
    assert [row for _, part in out for row in part] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_thread_that_read_the_first_rows_may_go_on_for_another(monkeypatch):
    """A program that looks at one row, and leaves the reading to a thread then."""
    owed, out = Owed(), deque()
    on(1, monkeypatch)
    owed.owe([(0, 1)])
    on(2, monkeypatch)
    owed.owe([(0, 9)])
    on(1, monkeypatch)
    owed.answer([*range(6)], out)
    owed.answer([*range(6, 10)], out)
    assert [row for _, part in out for row in part] == [*range(10)]


def test_rows_that_tensorflow_reads_are_answered_in_order_also_where_the_program_has_read_some(monkeypatch):
    """An eager pipeline runs its generator now on this thread, now on another."""
    owed, out = Owed(), deque()
    for thread in (0, 5, 0, 5):
        on(thread, monkeypatch)
        owed.owe([(7, 2)])
    on(5, monkeypatch)
    owed.answer([*range(8)], out)
    assert [row for _, part in out for row in part] == [*range(8)]


class Answers(RuleBasedStateMachine):
    """Workers that answer their own rows, in any order: each stream gets its results in the order of its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.owed, self.out = Owed(), deque[Any]()
        self.thread = 1
        self.next: dict[int, int] = {}
        self.mine: dict[int, list[tuple[int, int]]] = {}

    def act(self, thread: int, what: Callable[[], None]) -> None:
        import tfos_fast.channel.reader.owed as module

        before = module.this_thread
        module.this_thread = lambda: thread  # type: ignore[assignment]
        try:
            what()
        finally:
            module.this_thread = before  # type: ignore[assignment]

    @rule(thread=st.integers(1, 3), stream=st.integers(0, 2), rows=st.integers(1, 5))
    def read(self, thread: int, stream: int, rows: int) -> None:
        begin = self.next.get(stream, 0)
        self.next[stream] = begin + rows
        self.mine.setdefault(thread, []).extend((stream, begin + i) for i in range(rows))
        self.act(thread, lambda: self.owed.owe([(stream, rows)]))

    @precondition(lambda self: any(self.mine.values()))
    @rule(data=st.data())
    def answer(self, data: Any) -> None:
        thread = data.draw(st.sampled_from(sorted(thread for thread, rows in self.mine.items() if rows)))
        count = data.draw(st.integers(1, len(self.mine[thread])))
        rows, self.mine[thread] = self.mine[thread][:count], self.mine[thread][count:]
        self.act(thread, lambda: self.owed.answer(rows, self.out))

    @invariant()
    def in_order(self) -> None:
        seen: dict[int, list[Any]] = {}
        for stream, part in self.out:
            seen.setdefault(stream, []).extend(part)
        unanswered = {row for rows in self.mine.values() for row in rows}
        for stream, rows in seen.items():
            assert rows == [(stream, i) for i in range(len(rows))]
        for stream, end in self.next.items():
            first = min((row for s, row in unanswered if s == stream), default=end)
            assert len(seen.get(stream, [])) == first  # all that no earlier row holds up
        assert self.owed.rows == len(unanswered)


test_streams_get_their_results_in_order = Answers.TestCase
