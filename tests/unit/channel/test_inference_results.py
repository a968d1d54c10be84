"""Results that go back to who asked."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pytest

from tests.support.helpers import child, ended, free, in_thread, wait_for
from tfos_fast.channel import Channel
from tfos_fast.errors import ChannelClosed, FormError, RowTooLarge, WriterDied


def serve(channel: Channel, answer: Callable[[list[Any]], list[Any]], mode: str = "rows") -> None:
    with channel.reader(train_mode=False) as reader:
        while not reader.ended:
            if mode == "rows":
                reader.write_results(answer(reader.next_rows(33)))
            else:
                batch = reader.next_batch(64)
                if batch is not None:
                    reader.write_results(answer(batch.columns["c0"].tolist()))


@pytest.mark.parametrize("mode", ["rows", "columns"])
def test_results_of_several_streams_with_a_slow_one(mode: str):
    with Channel.create(memory="64k", slot_bytes="4k", form=mode, writers=3) as channel:  # type: ignore[arg-type]
        server, served = in_thread(lambda: serve(channel, lambda rows: [("r", row) for row in rows], mode))
        writers = [channel.writer() for _ in range(3)]
        first_row_back = threading.Event()

        def rows(index: int) -> Iterator[int]:
            for i in range(3000):
                if index == 0 and i == 1:
                    first_row_back.wait(20)  # its first result must come although its source waits
                yield index * 10_000 + i

        def exchange(index: int) -> list[Any]:
            out: list[Any] = []
            with writers[index] as writer:
                for results in writer.exchange(rows(index)):
                    out += results
            return out

        threads = [in_thread(lambda index=index: exchange(index)) for index in range(3)]
        ended(threads[1][0])
        ended(threads[2][0])
        first_row_back.set()
        ended(threads[0][0])
        ended(server)
        assert served == [None]
        for index, (_, out) in enumerate(threads):
            assert out == [[("r", index * 10_000 + i) for i in range(3000)]]


def test_results_do_not_pile_up_in_the_writer():
    with Channel.create(memory="1m", slot_bytes="4k", form="rows") as channel:
        server, _ = in_thread(lambda: serve(channel, lambda rows: rows))
        with channel.writer() as writer:
            seen = 0
            most = 0
            for results in writer.exchange(iter(range(200_000))):
                seen += len(results)
                most = max(most, sum(map(len, writer._results.ready)))
            assert seen == 200_000
            assert most < 100_000  # what slots of results hold, not the partition
        ended(server)


def test_results_larger_than_a_slot_and_too_many_results():
    with Channel.create(memory="64k", slot_bytes="4k", form="rows") as channel:
        writer = channel.writer()
        thread, out = in_thread(lambda: list(writer.exchange(iter([(1,), (2,)]))))
        reader = channel.reader(train_mode=False)
        rows = reader.next_rows(2)
        rows += reader.next_rows(2) if len(rows) < 2 else []
        with pytest.raises(ValueError, match="3 results for 2 rows"):
            reader.write_results([1, 2, 3])
        reader.write_results(["x" * 10_000, 2])
        for _ in range(20):  # the slot is not lost
            with pytest.raises(RowTooLarge, match="slot_bytes"):
                reader._results.flush()
            reader._results.add(0, ["x" * 10_000])
        with pytest.raises(RowTooLarge):
            reader.close()
        ended(thread)
        assert isinstance(out[0], ChannelClosed)
        assert "(0 came back)" in str(out[0])
        writer.close()
        wait_for(lambda: free(channel) == 16)


def exchange_forever(pipe: Any, address: str) -> None:
    with Channel.attach(address).writer() as writer:
        for i, _ in enumerate(writer.exchange((j,) for j in range(10**9))):
            if i == 20:
                pipe.send("middle")


def test_a_writer_killed_in_mid_exchange_leaves_its_slots_and_the_others_go_on():
    with Channel.create(memory="64k", slot_bytes="4k", form="rows", writers=2) as channel:
        other = channel.writer()
        server, served = in_thread(lambda: serve(channel, lambda rows: rows))
        with child(exchange_forever, channel.address) as victim:
            assert victim.hear() == "middle"
            victim.kill()
        with other as writer:
            rows = [(i,) for i in range(3000)]
            assert [row for results in writer.exchange(iter(rows)) for row in results] == rows
        ended(server)
        assert isinstance(served[0], WriterDied)  # the victim's partition was left unfinished
        wait_for(lambda: free(channel) == 16)


def test_an_exchange_given_up_and_another_after_it():
    with Channel.create(memory="64k", slot_bytes="4k", form="rows", writers=2) as channel:
        server, _ = in_thread(lambda: serve(channel, lambda rows: rows))
        with channel.writer() as writer:
            first = writer.exchange((i,) for i in range(5000))
            next(first)
            first.close()
            writer.end_partition()
            rows = [(i,) for i in range(10_000, 13_000)]
            assert [row for results in writer.exchange(iter(rows)) for row in results] == rows
        channel.end_feed()
        ended(server)


def test_an_exchange_with_a_reader_that_trains_is_refused_at_once():
    with Channel.create(memory="64k", slot_bytes="4k", form=None, writers=2) as channel:
        reader = channel.reader()
        reader.open_columns(64, wait=False)
        with channel.writer() as writer, pytest.raises(FormError, match="train_mode=False"):
            next(writer.exchange((i,) for i in range(10)))
        reader.close()


def test_rows_without_a_result_are_told_at_the_end():
    with Channel.create(memory="64k", slot_bytes="4k", form="rows") as channel:
        thread, _ = in_thread(lambda: list(itertools.islice(give(channel, range(10)), 1)))
        reader = channel.reader(train_mode=False)
        rows = reader.next_rows(10)
        reader.write_results(rows[:-1])
        with pytest.raises(FormError, match="1 rows of an inference were read and got no result"):
            reader.close()
        ended(thread)


def test_a_program_that_waits_for_rows_and_owes_results_is_warned(caplog, monkeypatch):
    monkeypatch.setattr("tfos_fast.channel.reader.inbox.OWED_S", 0.2)
    with Channel.create(memory="64k", slot_bytes="4k", form="rows") as channel:
        thread, out = in_thread(lambda: sum(map(len, give(channel, range(100)))))
        reader = channel.reader(train_mode=False)
        rows = reader.next_rows(100)
        reader.write_results(rows[:-3])
        waiting, _ = in_thread(lambda: reader.next_rows(1))
        wait_for(lambda: bool(caplog.records))
        assert "0.2 s, and 3 rows that were handed out have no result yet" in caplog.text
        reader.terminate()
        ended(waiting)
        with contextlib.suppress(FormError):
            reader.close()
        ended(thread)
        assert re.search(r"before every row of partition .* had its result \(97 came back\)", str(out[0]))


@pytest.mark.parametrize(("answered", "fed"), [(0, 10), (0, 100_000), (64, 100_000)])
@pytest.mark.parametrize("source", ["rows", "pickled", "arrow"])
def test_a_reader_that_ends_before_every_row_has_a_result_is_told(source: str, answered: int, fed: int):
    with Channel.create(memory="64k", slot_bytes="4k", form="rows") as channel:
        rows: Any = range(fed)
        how: dict[str, Any] = {}
        if source == "pickled":
            rows, how = [pickle.dumps([*range(i, i + 10)]) for i in range(0, fed, 10)], {"loads": pickle.loads}
        elif source == "arrow":
            rows, how = [pa.RecordBatch.from_pydict({"x": [*range(i, i + 10)]}) for i in range(0, fed, 10)], {"arrow": True}
        thread, out = in_thread(lambda: sum(map(len, give(channel, rows, **how))))
        reader = channel.reader(train_mode=False)
        if answered:
            reader.write_results(reader.next_rows(answered))
        reader.terminate()
        reader.close()
        ended(thread)
        assert isinstance(out[0], ChannelClosed), out
        assert re.search(rf"before every row of partition .* had its result \({answered} came back\).*should_stop", str(out[0]))


def give(channel: Channel, rows: Iterable[Any], **how: Any) -> Iterator[list[Any]]:
    with channel.writer() as writer:
        yield from writer.exchange(rows, **how)
