"""A second attempt beside a slow one, and one on another executor: every row comes once.

Its Spark is of its own, and there can be one at a time: the name comes before those of the modules that share one.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass

import pytest

import tfos_fast
from tests.failures import chaos
from tests.failures.conftest import whole
from tests.spark import sparks
from tests.spark.mains import noted
from tests.support.spark_feeds import fed, wait_for

pytestmark = [pytest.mark.spark, whole]

# A second attempt beside the first one, where that is slow.
SPECULATION = {
    "spark.speculation": "true",
    "spark.speculation.interval": "100ms",
    "spark.speculation.minTaskRuntime": "1s",
    "spark.speculation.quantile": "0.3",
    "spark.speculation.efficiency.enabled": "false",
}


@pytest.fixture(scope="module")
def sc(nothing_left):
    """Spark never gives a second attempt beside a first one to the same host."""
    with sparks.standalone(workers=2, cores=1, hosts=True) as master:
        with sparks.spark(master, **{"spark.cores.max": "2"}, **SPECULATION) as context:
            yield context


@dataclass(frozen=True)
class Slow(chaos.Round):
    """The first attempt at the last partition stops in the middle, until a second one has come and made this file."""

    second: str

    def __call__(self, partition):
        from pyspark import TaskContext

        attempt = TaskContext.get().attemptNumber()
        if partition == 2 and attempt:
            open(self.second, "w").close()
        for i in range(self.sizes[partition]):
            while partition == 2 and not attempt and i == 2000 and not os.path.exists(self.second):
                time.sleep(0.01)
            yield chaos.row_of(self.turn, partition, i)


def test_a_speculative_attempt_goes_on_behind_the_first(sc, out, tmp_path):
    second = tmp_path / "second-attempt"
    it = Slow(0, (500, 500, 4000), (None,) * 3, str(second))
    with tfos_fast.run(sc, chaos.compare, {"out": out}, 2, **chaos.SMALL) as cluster:
        assert cluster.feed(sc.parallelize(range(3), 3).flatMap(it)).rows == 5000
    assert second.exists()
    assert chaos.check([it], noted(out)) == 5000


def test_rows_of_an_attempt_that_was_replaced_are_waited_for(sc, out, tmp_path):
    """The second attempt goes on at the other node, and no task waits for what the first one's node has yet to take."""
    second, hold = tmp_path / "second-attempt", tmp_path / "hold"
    it = Slow(0, (500, 500, 3000), (None,) * 3, str(second))

    def go_on():
        wait_for(second.exists, "the second attempt")
        time.sleep(2.0)  # by now it has ended: its node holds nothing up
        hold.touch()

    with tfos_fast.run(sc, chaos.compare, {"out": out, "hold": str(hold)}, 2, **chaos.SMALL) as cluster:
        thread = threading.Thread(target=go_on)
        thread.start()
        report = cluster.feed(sc.parallelize(range(3), 3).flatMap(it))
        held = hold.exists()
        thread.join()
        assert held
        assert (report.rows, report.rows_left) == (4000, {})
    assert chaos.check([it], noted(out)) == 4000


def test_an_attempt_on_another_executor(sc, out):
    """The executor that dies has no node: the cluster lives on, its tasks are tried again. Last, since Spark brings up another."""
    it = chaos.Round(0, (30_000, 30_000), (None, None))
    with tfos_fast.run(sc, chaos.compare, {"out": out}, 1, **chaos.SMALL) as cluster:
        node = cluster.nodes[0].executor.pid
        both = sc.parallelize(range(2), 2).barrier().mapPartitions(_executor).collect()
        (other,) = set(both) - {node}

        def kill():
            wait_for(lambda: fed(cluster, "worker:0"), "a row")
            os.kill(other, signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        assert cluster.feed(sc.parallelize(range(2), 2).flatMap(it)).rows == 60_000
        thread.join()
    assert chaos.check([it], noted(out)) == 60_000


def _executor(_):
    from tfos_fast.cluster.spark.task import executor_pid

    return [executor_pid()]
