"""Trainers that die and are started again: what all their lives got, row by row, against what they committed."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

import tfos_fast
from tests.support.barrier import Barrier, partitions
from tfos_fast.errors import FormError, NodeFailed, NodeKilled

MASTER = "local[2]"
SMALL = {"memory": "4m", "slot_bytes": "64k"}


class Notes:
    """What one life of a node did, line by line on disk: rows, commits, ends of epochs."""

    def __init__(self, args, ctx):
        name = f"{ctx.job_name}:{ctx.task_index}"
        self.file = open(Path(args["out"]) / f"{name}.{ctx.restarts}", "w", buffering=1)  # noqa: SIM115
        self.rows = self.steps = 0

    def say(self, what):
        self.file.write(json.dumps(what) + "\n")

    def got(self, rows):
        self.rows += len(rows)
        self.file.write("".join(json.dumps(row) + "\n" for row in rows))


def lives_of(out):
    """Node -> what each of its lives noted."""
    found = {}
    for path in sorted(Path(out).iterdir()):
        name, _, life = path.name.rpartition(".")
        found.setdefault(name, {})[int(life)] = [json.loads(line) for line in path.read_text().splitlines()]
    return {name: [lives[life] for life in sorted(lives)] for name, lives in found.items()}


def trained(lives):
    """The rows that the checkpoints of all lives have, and what the last one got: what a model has seen in the end."""
    rows = []
    for number, life in enumerate(lives):
        if number < len(lives) - 1:
            life = life[: max((at for at, what in enumerate(life) if what == "commit"), default=-1) + 1]
        rows += [tuple(what) for what in life if isinstance(what, list)]
    return rows


def everything(out):
    return Counter(row for lives in lives_of(out).values() for row in trained(lives))


def check_counts(out, fed, end, rows, partitions):
    """The reports of a feed and of shutdown, against what the programs noted: each row of every epoch once."""
    had = {name: len(trained(lives)) for name, lives in lives_of(out).items()}
    assert sum(had.values()) == rows
    assert (fed.rows, fed.partitions, fed.rows_of_node) == (rows, partitions, had)
    assert (fed.rows_left, fed.rows_unused, fed.ended_early) == ({}, {}, {})
    assert {name: node.rows for name, node in end.nodes.items()} == had


def numbered(sc, sizes):
    return sc.parallelize(list(enumerate(sizes)), len(sizes)).flatMap(lambda part: [(part[0], i) for i in range(part[1])])


def by_rows(args, ctx):
    """Reads rows, commits now and then, and kills itself."""
    notes, feed = Notes(args, ctx), ctx.get_data_feed()
    deaths = args["deaths"].get(ctx.task_index, [])
    while not feed.should_stop():
        notes.got(feed.next_batch(50))
        if args["every"] and notes.rows % args["every"] == 0:
            feed.commit()
            notes.say("commit")
        if ctx.restarts < len(deaths) and notes.rows >= deaths[ctx.restarts]:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("every", [400, 0])
@pytest.mark.parametrize("kind", ["node", pytest.param("group", marks=pytest.mark.long)])
def test_no_row_is_lost_and_none_before_a_commit_comes_again(sc, out, caplog, kind, every):
    sizes = [900, 0, 1500, 700, 1, 1200]
    args = {"out": out, "every": every, "deaths": {0: [450, 1150]}}
    with tfos_fast.run(sc, by_rows, args, 2, max_restarts=2, restart=kind, **SMALL) as cluster:
        fed = cluster.feed(numbered(sc, sizes), epochs=2)
        report = cluster.shutdown()
    assert everything(out) == {(part, i): 2 for part, size in enumerate(sizes) for i in range(size)}
    check_counts(out, fed, report, 2 * sum(sizes), 2 * 5)
    assert len(lives_of(out)["worker:0"]) == 3
    assert len(report.nodes["worker:0"].restarts) == 2
    assert "SIGKILL" in str(report)
    assert [record.levelno for record in caplog.records if "started again" in record.getMessage()] == [logging.WARNING] * 2


def late(args, ctx):
    """Reads everything, and dies after the feed, when the driver is in shutdown or between two feeds."""
    notes, feed = Notes(args, ctx), ctx.get_data_feed()
    while not feed.should_stop():
        notes.got(feed.next_batch(100))
        if notes.rows == args["commit"]:
            feed.commit()
            notes.say("commit")
        if notes.rows == args["die"] and not ctx.restarts:
            while not (Path(args["out"]).parent / "now").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("feeds", [pytest.param(1, marks=pytest.mark.long), 2])
def test_a_death_after_the_feed(sc, tmp_path, feeds):
    out = tmp_path / "out"
    out.mkdir()
    args = {"out": str(out), "commit": 300, "die": 2000}
    with tfos_fast.run(sc, late, args, 1, max_restarts=1, **SMALL) as cluster:
        first = cluster.feed(numbered(sc, [1000, 1000]))
        (tmp_path / "now").touch()
        if feeds == 2:
            cluster._coordinator.wait(lambda: cluster._coordinator.restarts.life("worker:0") == 1, 30.0, "a test")
            second = cluster.feed(numbered(sc, [10]))
            assert (second.rows, second.partitions, second.rows_of_node) == (10, 1, {"worker:0": 10})
        report = cluster.shutdown()
    assert (first.rows, first.partitions) == (2000, 2)
    assert report.nodes["worker:0"].rows == (2010 if feeds == 2 else 2000)
    rows = {(part, i): 1 for part in range(2) for i in range(1000)}
    assert everything(str(out)) == rows | ({(0, i): 2 for i in range(10)} if feeds == 2 else {})


def by_batches(args, ctx):
    """Reads whole batches only: the last rows of an epoch wait while the next one's are handed out."""
    notes, feed = Notes(args, ctx), ctx.get_data_feed()
    for columns in feed.batches(64):
        notes.got(list(zip(*(column.tolist() for column in columns.values()), strict=True)))
        if notes.rows == args["stop"] and not ctx.restarts:
            if args["dies"]:
                feed.commit()
                notes.say("commit")
                os.kill(os.getpid(), signal.SIGKILL)
            notes.say({"position": feed.position()})
            return


def test_rows_of_an_epoch_that_wait_while_the_next_is_handed_out_come_again(sc, out):
    with tfos_fast.run(sc, by_batches, {"out": out, "stop": 768, "dies": True}, 1, max_restarts=1, **SMALL) as cluster:
        fed = cluster.feed(numbered(sc, [646]), epochs=2)
        report = cluster.shutdown()
    assert everything(out) == {(0, i): 2 for i in range(646)}
    check_counts(out, fed, report, 2 * 646, 2)


def test_rows_of_an_epoch_that_wait_while_the_next_is_handed_out_are_not_in_a_position(sc, tmp_path):
    got, position = Counter(), None
    for life, stop in enumerate([768, 0]):
        out = tmp_path / str(life)
        out.mkdir()
        with tfos_fast.run(sc, by_batches, {"out": str(out), "stop": stop, "dies": False}, 1, **SMALL) as cluster:
            cluster.feed(numbered(sc, [646]), epochs=2, position=position)
        [[life_of_node]] = lives_of(str(out)).values()
        position = [what["position"] for what in life_of_node if isinstance(what, dict)] or None
        got += Counter(tuple(what) for what in life_of_node if isinstance(what, list))
    assert got == {(0, i): 2 for i in range(646)}


def by_epochs(args, ctx):
    """Goes epoch by epoch, as ``dataset()`` does, and notes where each ends; a checkpoint says in which it goes on."""
    notes, reader = Notes(args, ctx), ctx.get_data_feed().reader
    saved = Path(args["out"]).parent / f"checkpoint-{ctx.task_index}"
    first = int(saved.read_text()) if saved.exists() else 0
    for epoch in range(first, args["epochs"]):
        while (batch := reader.next_batch(64, epoch_ends=True)) is not None:
            notes.got([[epoch, *pair] for pair in zip(*(column.tolist() for column in batch.columns.values()), strict=True)])
            if ctx.task_index == 0 and not ctx.restarts and epoch == args["die"] and notes.rows > args["at"]:
                raise RuntimeError("as was asked for")
        notes.say("end")
        if epoch in args["commit"]:
            saved.write_text(str(epoch + 1))
            reader.commit()
            notes.say("commit")


def test_a_node_goes_back_to_the_epoch_of_its_last_commit_while_others_stay(sc, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    args = {"out": str(out), "epochs": 4, "commit": [0], "die": 2, "at": 1500}
    sizes = [700, 600, 500]
    with tfos_fast.run(sc, by_epochs, args, 2, max_restarts=1, **SMALL) as cluster:
        fed = cluster.feed(numbered(sc, sizes), epochs=4)
        report = cluster.shutdown()
    check_counts(str(out), fed, report, 4 * sum(sizes), 4 * 3)
    assert "as was asked for" in report.nodes["worker:0"].restarts[0]
    assert not report.nodes["worker:1"].restarts
    lives = lives_of(str(out))
    assert [what for what in lives["worker:0"][1] if what == "end"] == ["end"] * 3
    # In each epoch, by the count of the programs themselves, every row once.
    rows = Counter(row for parts in lives.values() for row in trained(parts))
    assert rows == {(epoch, part, i): 1 for epoch in range(4) for part, size in enumerate(sizes) for i in range(size)}


def test_a_group_ends_together_and_begins_together(sc, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    args = {"out": str(out), "epochs": 3, "commit": [0], "die": 1, "at": 600}
    sizes = [700, 600, 500, 400]
    with tfos_fast.run(sc, by_epochs, args, 2, max_restarts=1, restart="group", **SMALL) as cluster:
        fed = cluster.feed(numbered(sc, sizes), epochs=3)
        report = cluster.shutdown()
    check_counts(str(out), fed, report, 3 * sum(sizes), 3 * 4)
    assert all("as was asked for" in node.restarts[0] for node in report.nodes.values())
    lives = lives_of(str(out))
    assert all(len(parts) == 2 for parts in lives.values())
    rows = Counter(row for parts in lives.values() for row in trained(parts))
    assert rows == {(epoch, part, i): 1 for epoch in range(3) for part, size in enumerate(sizes) for i in range(size)}


def in_step(args, ctx):
    """Steps behind a barrier; after every fifth one a checkpoint, on all nodes."""
    notes, feed = Notes(args, ctx), ctx.get_data_feed()
    folder = Path(args["out"]).parent
    (folder / f"life-{ctx.restarts}").mkdir(exist_ok=True)
    barrier = Barrier(folder / f"life-{ctx.restarts}", ctx)
    saved = folder / f"checkpoint-{ctx.task_index}"
    first = int(saved.read_text()) if saved.exists() else 0
    for epoch in range(first, args["epochs"]):
        for batch in feed.batches(32, (("float32", (250,)), ("int64", ())), uneven="pad"):
            barrier.meet()
            notes.got([[epoch, number] for number in batch["c1"][batch["sample_weight"] == 1].tolist()])
            notes.steps += 1
            die = epoch == 1 and notes.rows >= args["at"] and notes.steps % 5 == 2  # when all have made the checkpoint, or none
            if die and ctx.task_index == 0 and not ctx.restarts:
                os.kill(os.getpid(), signal.SIGKILL)
            if notes.steps % 5 == 0:
                saved.write_text(str(epoch))
                feed.commit()
                notes.say("commit")
        barrier.meet()


def test_nodes_in_step_are_a_group(sc, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    sizes = [900, 40, 0, 1, 300]
    with tfos_fast.run(sc, in_step, {"out": str(out), "epochs": 3, "at": 900}, 2, max_restarts=1, **SMALL) as cluster:
        fed = cluster.feed(partitions(sc, *sizes), epochs=3)
        report = cluster.shutdown()
    check_counts(str(out), fed, report, 3 * sum(sizes), 3 * 4)
    assert all("SIGKILL" in node.restarts[0] for node in report.nodes.values())
    rows = Counter(row for parts in lives_of(str(out)).values() for row in trained(parts))
    assert rows == {(epoch, i): 1 for epoch in range(3) for i in range(sum(sizes))}


def test_after_so_many_restarts_the_failure_is_one(sc, out):
    args = {"out": out, "every": 0, "deaths": {0: [50, 50]}}
    with (
        pytest.raises(NodeKilled, match=r"SIGKILL.*started again 1 time, as max_restarts says") as caught,
        tfos_fast.run(sc, by_rows, args, 1, max_restarts=1, **SMALL) as cluster,
    ):
        cluster.feed(numbered(sc, [5000]))
    assert caught.value.signal == signal.SIGKILL
    assert len(lives_of(out)["worker:0"]) == 2


def serve(args, ctx):
    if ctx.job_name == "evaluator":
        if not ctx.restarts:
            raise RuntimeError("the evaluator fails once")
        Notes(args, ctx).say(os.environ["TF_CONFIG"])
        signal.pause()
    while not (Path(args["out"]) / "evaluator:0.1").exists():
        time.sleep(0.01)


def test_who_is_not_fed_is_started_again_too(sc, out):
    with tfos_fast.run(sc, serve, {"out": out}, 2, eval_node=True, max_restarts=1, **SMALL) as cluster:
        report = cluster.shutdown()
    assert "fails once" in report.nodes["evaluator:0"].restarts[0]
    assert json.loads(lives_of(out)["evaluator:0"][0][0])["task"] == {"type": "evaluator", "index": 0}


def validated(args, ctx):
    """Reads an evaluation of a named feed, in the first life not to its end."""
    notes, reader = Notes(args, ctx), ctx.get_data_feed(name="valid").reader
    while (batch := reader.next_batch(50, epoch_ends=True)) is not None:
        notes.got([list(pair) for pair in zip(*(column.tolist() for column in batch.columns.values()), strict=True)])
        if not ctx.restarts and notes.rows > 100:
            os.kill(os.getpid(), signal.SIGKILL)


def test_who_is_started_again_begins_with_a_whole_evaluation(sc, out):
    with tfos_fast.run(sc, validated, {"out": out}, 1, max_restarts=1, **SMALL) as cluster:
        cluster.offer(numbered(sc, [9000, 500]), "valid")
        cluster.shutdown()
    assert everything(out) == {(part, i): 1 for part, size in enumerate([9000, 500]) for i in range(size)}


def test_what_does_not_go_with_restarts_is_refused(sc, out):
    with tfos_fast.run(sc, by_rows, {"out": out, "every": 0, "deaths": {}}, 1, max_restarts=1, **SMALL) as cluster:
        with pytest.raises(ValueError, match="max_restarts"):
            cluster.feed(numbered(sc, [10]), epochs=2, keep="memory")
        cluster.feed(numbered(sc, [10]))
    with pytest.raises(ValueError, match="restart='all'"):
        tfos_fast.run(sc, by_rows, {}, 1, restart="all", **SMALL)


# ---- positions ---------------------------------------------------------------------------------------------------------------


def until(args, ctx):
    """Reads up to some row of some epoch, and leaves with its position."""
    notes, feed = Notes(args, ctx), ctx.get_data_feed()
    while not feed.should_stop():
        notes.got(feed.next_batch(64))
        if notes.rows >= args["rows"]:
            break
    notes.say({"position": feed.position()})


@pytest.mark.long
def test_a_later_application_goes_on_from_the_positions(sc, tmp_path):
    sizes = [700, 0, 300, 500, 100]
    got, position = Counter(), None
    for part, rows in enumerate([500, 700, 10_000]):
        out = tmp_path / str(part)
        out.mkdir()
        with tfos_fast.run(sc, until, {"out": str(out), "rows": rows}, 2, **SMALL) as cluster:
            cluster.feed(numbered(sc, sizes), epochs=2, position=position)
        lives = lives_of(str(out))
        position = [parts[0].pop()["position"] for parts in lives.values()]
        got += Counter(tuple(row) for parts in lives.values() for row in parts[0])
    assert got == {(part, i): 2 for part, size in enumerate(sizes) for i in range(size)}


def test_rows_between_those_that_were_had_are_fed(sc, out, tmp_path_factory):
    from pyspark.sql import SparkSession

    files = str(tmp_path_factory.mktemp("data") / "files")
    rows = numbered(sc, [100, 90])
    frame = SparkSession(sc).createDataFrame(rows, "part int, i int")
    frame.coalesce(1).sortWithinPartitions("part", "i").write.parquet(files)
    with tfos_fast.run(sc, by_rows, {"out": out, "every": 0, "deaths": {}}, 1, **SMALL) as cluster:
        for epoch, data in enumerate([rows, numbered(sc, [100, 90]).cache(), frame, tfos_fast.parquet(files)]):
            had = {str(epoch): {"0": [[0, 10], [40, 60], [60, 70]]}}
            assert cluster.feed(data, position={"epoch": epoch, "rows": had}).rows == 190 - 40
    expected = [(0, i) for i in range(100) if not (i < 10 or 40 <= i < 70)] + [(1, i) for i in range(90)]
    assert everything(out) == dict.fromkeys(expected, 4)


def test_positions_that_cannot_be_followed(sc, out):
    with tfos_fast.run(sc, by_rows, {"out": out, "every": 0, "deaths": {}}, 1, **SMALL) as cluster:
        for wrong in ([], {"epoch": 1}, [{"epoch": 0, "rows": {}}, {"epoch": 2, "rows": {}}]):
            with pytest.raises(ValueError, match="position"):
                cluster.feed(numbered(sc, [10]), position=wrong)
        cluster.feed(numbered(sc, [10]))
        with pytest.raises(ValueError, match="epochs are counted over all calls"):
            cluster.feed(numbered(sc, [10]), position={"epoch": 2, "rows": {}})


def test_a_commit_belongs_to_training(sc, out):
    def square(args, ctx):
        feed = ctx.get_data_feed(train_mode=False)
        while not feed.should_stop():
            rows = feed.next_batch(10)
            if rows:
                try:
                    feed.commit()
                except FormError:
                    feed.batch_results([row * row for row in rows])

    with tfos_fast.run(sc, square, {"out": out}, 1, **SMALL) as cluster:
        assert cluster.infer(sc.parallelize(range(30), 2)).collect() == [i * i for i in range(30)]


def wrong(args, ctx):
    raise NodeFailed("at once")


@pytest.mark.long
def test_a_program_that_always_fails_ends_the_start_or_the_feed(sc, out):
    with (
        pytest.raises(NodeFailed, match="started again 2 times"),
        tfos_fast.run(sc, wrong, {}, 1, max_restarts=2, **SMALL) as cluster,
    ):
        cluster.feed(numbered(sc, [10]))
