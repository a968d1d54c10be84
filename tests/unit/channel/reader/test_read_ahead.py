"""should_stop() where one thread reads, or a pipeline of tf.data does, and another one trains or infers."""

from __future__ import annotations

import gc
import queue
import threading
import time
from typing import Any

import pytest

from tests.support.helpers import ended, in_thread
from tfos_fast.channel import Channel
from tfos_fast.channel.reader import read_ahead as module
from tfos_fast.channel.reader.read_ahead import ReadAhead
from tfos_fast.tensors import DataFeed

ROWS, BATCH = 2000, 100


def fed(channel: Channel, rows: int = ROWS) -> None:
    with channel.writer() as writer:
        writer.write_rows((float(i), i) for i in range(rows))


def row_by_row(feed: DataFeed, made: list[str]) -> Any:
    """As the examples of TensorFlowOnSpark have it."""

    def generator() -> Any:
        made.append(threading.current_thread().name)
        while not feed.should_stop():
            batch = feed.next_batch(1)
            if not batch:
                return
            yield batch[0]

    return generator


def pipeline(tf: Any, feed: DataFeed, *, prefetch: int = 2, batch: int = BATCH, shuffle: int = 0) -> Any:
    types = (tf.float32, tf.int64)
    rows = tf.data.Dataset.from_generator(row_by_row(feed, []), types, (tf.TensorShape([]), tf.TensorShape([])))
    rows = rows.shuffle(shuffle) if shuffle else rows
    return rows.batch(batch).prefetch(prefetch) if prefetch else rows.batch(batch)


@pytest.mark.parametrize("shuffle", [0, 1000])
@pytest.mark.parametrize("rows", [ROWS, ROWS + 30])
def test_no_batch_that_a_pipeline_has_read_ahead_is_lost(rows: int, shuffle: int):
    import tensorflow as tf

    with Channel.create(memory="1m", slot_bytes="64k", form="rows") as channel:
        feeder, _ = in_thread(lambda: fed(channel, rows))
        feed = DataFeed(channel.reader())
        batches = iter(pipeline(tf, feed, shuffle=shuffle))
        seen: list[int] = []
        while not feed.should_stop():
            batch = next(batches, None)
            if batch is None:
                break
            seen += batch[1].numpy().tolist()
            time.sleep(0.01)  # a step of training, meanwhile the pipeline reads to the end of the feed
        assert sorted(seen) == [*range(rows)]
        ended(feeder)
        feed.reader.close()


def test_every_step_of_a_monitored_session_is_done():
    """TensorFlow 1: the loop asks in each step, and the session takes the pipeline's end for the end of training."""
    import tensorflow.compat.v1 as v1

    with Channel.create(memory="1m", slot_bytes="64k", form="rows") as channel:
        feeder, _ = in_thread(lambda: fed(channel))
        feed = DataFeed(channel.reader())
        done = 0
        with v1.Graph().as_default():
            x, _ = v1.data.make_one_shot_iterator(pipeline(v1, feed)).get_next()
            step = v1.train.get_or_create_global_step()
            train = v1.group(v1.assign_add(step, 1), v1.reduce_sum(x))
            with v1.train.MonitoredTrainingSession() as session:
                while not session.should_stop() and not feed.should_stop():
                    _, done = session.run([train, step])
                    time.sleep(0.005)
                    done = session.run(step) if not session.should_stop() else done
        assert done == ROWS // BATCH
        ended(feeder)
        feed.reader.close()


@pytest.mark.parametrize("prefetch", [0, 4])
def test_the_walkthrough_infers(prefetch: int):
    """A pipeline reads with next_batch(1), and the program's thread gives results."""
    import tensorflow as tf

    with Channel.create(memory="1m", slot_bytes="64k", form="rows", writers=2) as channel:

        def exchange(partition: int) -> list[Any]:
            rows = ((float(i), i) for i in range(partition * 1000, (partition + 1) * 1000))
            with channel.writer() as writer:
                return [row for results in writer.exchange(rows, f"p{partition}") for row in results]

        feeders = [in_thread(lambda i=i: exchange(i)) for i in range(2)]
        feed = DataFeed(channel.reader(train_mode=False))
        batches = iter(pipeline(tf, feed, prefetch=prefetch))
        while not feed.should_stop():
            batch = next(batches, None)
            if batch is None:
                break
            feed.batch_results([f"label {label}" for label in batch[1].numpy()])
        for i, (feeder, out) in enumerate(feeders):
            ended(feeder)
            assert out == [[f"label {row}" for row in range(i * 1000, (i + 1) * 1000)]]
        feed.reader.close()


@pytest.mark.parametrize("mode", ["rows", "columns"])
@pytest.mark.parametrize("form", ["empty", "asks"])
def test_a_thread_that_reads_into_a_queue(mode: Any, form: str):
    """The program ends when the feed has and the queue is empty: what the reading thread holds must not be missed."""
    with Channel.create(memory="256k", slot_bytes="16k", form=mode) as channel:
        feeder, _ = in_thread(lambda: fed(channel))
        feed = DataFeed(channel.reader())
        taken: queue.Queue[Any] = queue.Queue()

        def read() -> None:
            if mode == "columns":
                for columns in feed.batches(BATCH):
                    time.sleep(0.002)
                    taken.put(columns["c1"].tolist())
                return
            while form == "empty" or not feed.should_stop():
                rows = feed.next_batch(BATCH)
                if not rows:
                    return
                time.sleep(0.002)  # it has rows, and nobody sees them
                taken.put([row[1] for row in rows])

        reading, _ = in_thread(read)
        seen: list[int] = []
        while not (feed.should_stop() and taken.empty()):
            try:
                seen += taken.get(timeout=0.001)
            except queue.Empty:
                continue
        assert sorted(seen) == [*range(ROWS)]
        ended(reading)
        ended(feeder)
        feed.reader.close()


def test_one_thread_reads_and_asks():
    with Channel.create(memory="256k", slot_bytes="16k", form="rows") as channel:
        feeder, _ = in_thread(lambda: fed(channel, 100))
        feed = DataFeed(channel.reader())
        calls = 0
        while not feed.should_stop():
            calls += bool(feed.next_batch(10))
            if calls == 10:
                ended(feeder)
                time.sleep(0.2)
                assert feed.should_stop()  # no empty batch has to be read first
        assert calls == 10
        assert feed.next_batch(5) == []
        assert feed.should_stop()
        feed.reader.close()


@pytest.mark.parametrize("trains", ["same", "third"])
def test_the_first_batch_is_read_by_another_thread(trains: str):
    """The program looks at a batch, then one thread reads the others into a queue: only that one is waited for."""
    with Channel.create(memory="256k", slot_bytes="16k", form="rows") as channel:
        feeder, _ = in_thread(lambda: fed(channel))
        feed = DataFeed(channel.reader())
        taken: queue.Queue[Any] = queue.Queue()
        seen = [row[1] for row in feed.next_batch(BATCH)]

        def read() -> None:
            while not feed.should_stop():
                rows = feed.next_batch(BATCH)
                time.sleep(0.02)
                taken.put([row[1] for row in rows])

        def train() -> None:
            while not (feed.should_stop() and taken.empty()):
                try:
                    seen.extend(taken.get(timeout=0.001))
                except queue.Empty:
                    continue

        reading, _ = in_thread(read)
        if trains == "same":
            train()
        else:
            training, _ = in_thread(train)
            ended(training)  # while this thread, which has read the first batch, waits
        assert sorted(seen) == [*range(ROWS)]
        ended(reading)
        ended(feeder)
        feed.reader.close()


def test_workers_that_read_end_each_for_itself():
    with Channel.create(memory="256k", slot_bytes="16k", form="rows") as channel:
        feeder, _ = in_thread(lambda: fed(channel))
        feed = DataFeed(channel.reader())
        lock, seen = threading.Lock(), []

        def work() -> None:
            while not feed.should_stop():
                rows = feed.next_batch(7)
                with lock:
                    seen.extend(row[1] for row in rows)

        threads = [in_thread(work) for _ in range(6)]
        for thread, out in threads:
            ended(thread)
            assert out == [None]
        assert sorted(seen) == [*range(ROWS)]
        assert feed.should_stop()  # nobody is left who might hold rows
        ended(feeder)
        feed.reader.close()


def test_terminate_is_an_end_for_all():
    with Channel.create(memory="256k", slot_bytes="16k", form="rows") as channel:
        feeder, _ = in_thread(lambda: fed(channel))
        feed = DataFeed(channel.reader())
        thread, _ = in_thread(lambda: feed.next_batch(10))
        ended(thread)
        assert not feed.should_stop()
        feed.terminate()
        assert feed.should_stop()
        ended(feeder)
        feed.reader.close()


def test_nobody_is_put_off_for_ever(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    ahead, go = ReadAhead(), threading.Event()
    thread, _ = in_thread(lambda: (ahead.note(), go.wait(20)))
    while ahead.last < 0:
        time.sleep(0.001)
    assert not ahead.may_stop(10)
    time.sleep(0.1)
    assert ahead.may_stop(10)  # it has its rows, and does something else
    go.set()
    ended(thread)


@pytest.mark.parametrize("how", ["for", "fit", "another thread"])
def test_no_pipeline_is_begun_anew_when_the_last_one_has_ended(how: str):
    """A program that goes through its dataset in a loop, as the original let it: an empty round fails in tf_keras."""
    import tensorflow as tf

    with Channel.create(memory="1m", slot_bytes="64k", form="rows") as channel:
        feeder, _ = in_thread(lambda: fed(channel))
        feed = DataFeed(channel.reader())
        dataset = pipeline(tf, feed).map(lambda x, y: (tf.reshape(x, (-1, 1)), y))
        seen: list[int] = []

        class Notes(tf.keras.callbacks.Callback):
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                seen.append(BATCH)
                self.model.stop_training = feed.should_stop()  # must not stop before the last batch

        def step() -> None:
            if how == "fit":
                model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
                model.compile("sgd", "mse")
                model.fit(dataset, verbose=0, callbacks=[Notes()])
            else:
                seen.extend(int(tf.size(batch[1])) for batch in dataset)

        rounds = 0
        if how == "another thread":  # this one only asks
            training, _ = in_thread(step)
            while not feed.should_stop():
                time.sleep(0.01)
            ended(training)
        else:
            while not feed.should_stop():
                rounds += 1
                step()
            assert rounds == 1
        assert sum(seen) == ROWS
        ended(feeder)
        feed.reader.close()


def test_a_loop_that_hides_the_end_of_its_pipeline_ends(monkeypatch):
    ahead = ReadAhead()  # without anything that knows pipelines
    monkeypatch.setattr(module, "this_thread", lambda: module.PIPELINE)
    ahead.note()
    assert ahead.may_stop(5)  # the generator itself
    monkeypatch.setattr(module, "this_thread", lambda: 1)
    assert [ahead.may_stop(5) for _ in range(7)] == [False] * 5 + [True] * 2  # each step takes a row at least


def test_a_dataset_of_ours_ends_as_before():
    import tensorflow as tf

    with Channel.create(memory="1m", slot_bytes="64k", form="columns") as channel:
        feeder, _ = in_thread(lambda: fed(channel))
        feed = DataFeed(channel.reader())
        dataset = feed.dataset(BATCH).map(lambda x, y: y)
        iterators, seen = 0, 0
        while not feed.should_stop():
            iterators += 1
            seen += sum(int(tf.size(batch)) for batch in dataset)
        assert (iterators, seen) == (1, ROWS)
        ended(feeder)
        feed.reader.close()


def others(tf: Any, kind: str) -> Any:
    """An iterator that has read nothing of the feed."""
    if kind == "as numpy":
        return tf.data.Dataset.range(10**9).as_numpy_iterator()
    if kind == "generator":
        return iter(tf.data.Dataset.from_generator(lambda: iter(range(10**9)), tf.int64).batch(2).prefetch(2))
    numbers = tf.data.Dataset.range(10**9).map(lambda x: x + 1)
    return iter(tf.data.Dataset.zip((numbers, tf.data.Dataset.from_tensor_slices([1, 2]).repeat())).batch(2))


@pytest.mark.parametrize("kind", ["generator", "zip", "as numpy"])
def test_an_iterator_over_other_data_keeps_nobody_waiting(kind: str):
    """As one over data for validation, which the program keeps for good."""
    import tensorflow as tf

    with Channel.create(memory="1m", slot_bytes="64k", form="rows") as channel:
        kept = others(tf, kind)
        next(kept)
        feeder, _ = in_thread(lambda: fed(channel))
        feed = DataFeed(channel.reader())
        batches = iter(pipeline(tf, feed))
        seen = 0
        while seen < ROWS:
            seen += int(tf.size(next(batches)[1]))
        ended(feeder)
        assert not feed.should_stop()  # the program does not know yet that this is all
        del batches
        assert feed.should_stop()
        next(kept)
        feed.reader.close()


def test_a_dataset_of_unknown_origin_may_hold_rows():
    """The generator is in a dataset that a function of the program makes."""
    import tensorflow as tf

    with Channel.create(memory="1m", slot_bytes="64k", form="rows") as channel:
        feeder, _ = in_thread(lambda: fed(channel))
        feed = DataFeed(channel.reader())
        batches = iter(tf.data.Dataset.range(1).flat_map(lambda _: pipeline(tf, feed)).prefetch(30))
        seen = 0
        while not feed.should_stop():
            batch = next(batches, None)
            if batch is None:
                break
            ended(feeder)
            seen += int(tf.size(batch[1]))
        assert seen == ROWS
        feed.reader.close()


def test_a_callback_of_keras_asks_in_every_batch():
    """It gets False up to the last batch, and the garbage collector is not run for each answer."""
    import tensorflow as tf

    collections: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            collections.append(1)

    with Channel.create(memory="1m", slot_bytes="64k", form="rows") as channel:
        feeder, _ = in_thread(lambda: fed(channel))
        feed = DataFeed(channel.reader())
        dataset = pipeline(tf, feed, prefetch=200, batch=20).map(lambda x, y: (tf.reshape(x, (-1, 1)), y))
        answers: list[bool] = []

        class Asks(tf.keras.callbacks.Callback):
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                deadline = time.monotonic() + 30
                while not feed.reader.ended and time.monotonic() < deadline:
                    time.sleep(0.001)  # until the pipeline holds all rows that are left
                answers.append(feed.should_stop())
                self.model.stop_training = answers[-1]

        model = tf.keras.Sequential([tf.keras.Input((1,)), tf.keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        gc.collect()
        gc.callbacks.append(note)
        try:
            model.fit(dataset, verbose=0, callbacks=[Asks()])
        finally:
            gc.callbacks.remove(note)
        assert feed.should_stop()
        assert answers == [False] * (ROWS // 20)
        assert len(collections) < 20
        ended(feeder)
        feed.reader.close()


@pytest.mark.parametrize("how", ["fit", "map", "prefetch", "eager"])
def test_nothing_that_our_dataset_has_read_ahead_is_lost(how: str):
    """The program asks in every step."""
    import tensorflow as tf

    with Channel.create(memory="1m", slot_bytes="64k", form="columns") as channel:
        feeder, _ = in_thread(lambda: fed(channel))
        feed = DataFeed(channel.reader())
        dataset = feed.dataset(BATCH // 5)
        seen: list[int] = []
        if how == "fit":

            class Asks(tf.keras.callbacks.Callback):
                def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                    time.sleep(0.002)  # meanwhile tf.data reads to the end of the feed
                    seen.append(BATCH // 5)
                    self.model.stop_training = feed.should_stop()

            model = tf.keras.Sequential([tf.keras.Input((1,)), tf.keras.layers.Dense(1)])
            model.compile("sgd", "mse")
            model.fit(dataset.map(lambda x, y: (tf.reshape(x, (-1, 1)), y)), verbose=0, callbacks=[Asks()])
        else:
            ahead = dataset if how == "eager" else dataset.map(lambda x, y: (x, y))
            batches = iter(ahead.prefetch(30) if how == "prefetch" else ahead)
            while not feed.should_stop() and (batch := next(batches, None)) is not None:
                time.sleep(0.002)
                seen.append(int(tf.size(batch[1])))
            del batches
        assert sum(seen) == ROWS
        assert feed.should_stop()
        ended(feeder)
        feed.reader.close()
