"""Every row comes once, whatever becomes of the tasks that feed it; a partition that cannot be continued is told."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest
from pyspark.sql import SparkSession

import tfos_fast
from tests.failures import chaos
from tests.failures.conftest import whole
from tests.spark.mains import noted
from tests.support.leaks import of_this_run
from tests.support.spark_feeds import fed, wait_for
from tfos_fast.errors import NonDeterministicPartition

pytestmark = pytest.mark.spark


def test_killed_feeders(sc, out):
    rows, kills = chaos.run(sc, 3, seed=20, out=out)
    assert rows
    assert kills >= 3


def feeders():
    """Python workers of this test run's Spark that have a node's memory mapped."""
    for process in psutil.process_iter():
        try:
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            if "/memfd:tfos_fast" in maps and "pyspark.daemon" in process.cmdline() and of_this_run(process.pid):
                yield process.pid
        except (OSError, psutil.Error):
            continue


@pytest.mark.parametrize("kind", ["stored", pytest.param("frame", marks=whole)])
def test_a_killed_feeder_of_stored_data(sc, out, tmp_path, kind):
    """Pickled and Arrow batches: the second attempt begins in the middle of one."""
    it = chaos.Round(0, (20_000, 20_000), (None, None))
    data = sc.parallelize([chaos.row_of(0, p, i) for p in range(2) for i in range(20_000)], 2)
    if kind == "frame":
        data = SparkSession(sc).createDataFrame(data, "turn long, partition long, i long, payload binary")
    hold = tmp_path / "hold"

    def strike():
        try:
            wait_for(lambda: fed(cluster, "worker:0") or fed(cluster, "worker:1"), "rows")
            killed.append(wait_for(lambda: next(feeders(), None), "a feed task"))
            os.kill(killed[0], signal.SIGKILL)
        finally:
            hold.touch()

    killed = []
    with tfos_fast.run(sc, chaos.compare, {"out": out, "hold": str(hold)}, 2, **chaos.SMALL) as cluster:
        thread = threading.Thread(target=strike)
        thread.start()
        assert cluster.feed(data).rows == 40_000
        thread.join()
    assert killed
    assert chaos.check([it], noted(out)) == 40_000


class Random(chaos.Round):
    """The second attempt at a partition finds other rows."""

    def __call__(self, partition):
        from pyspark import TaskContext

        again = TaskContext.get().attemptNumber() > 0
        for number, row in enumerate(super().__call__(partition)):
            yield chaos.row_of(self.turn, partition, number + 1) if again else row


def test_a_partition_that_comes_out_different_is_told(sc, out):
    it = Random(0, (3000,), (2500,))
    with (
        pytest.raises(NonDeterministicPartition, match=r"partition feed1/0/0 now begins with other rows, and \d+ rows of it"),
        tfos_fast.run(sc, chaos.compare, {"out": out}, 2, **chaos.SMALL) as cluster,
    ):
        cluster.feed(sc.parallelize(range(1), 1).flatMap(it))


def test_at_least_once_begins_again(sc, out):
    it = Random(0, (3000,), (2500,))
    with tfos_fast.run(sc, chaos.compare, {"out": out}, 1, **chaos.SMALL) as cluster:
        report = cluster.feed(sc.parallelize(range(1), 1).flatMap(it), exactly_once=False)
    ((_, _, first, _), *rest) = noted(out)[0]
    assert first == 0
    assert rest[-1][3] == 3001  # the second attempt came to its end, and began before the place where the first one died
    assert report.rows > 3000
