"""A cluster is shut down once, whoever asks: threads at the same time, a signal's handler, a fork of the driver."""

from __future__ import annotations

import os
import signal
import sys
import threading

import tfos_fast
from tests.spark import mains
from tests.support import badly

MASTER = "local[2]"
SMALL = {"memory": "1m", "slot_bytes": "64k"}


def rows(report):
    return sum(node.rows for node in report.nodes.values())


def forked(work):
    """Run it in a fork of this process, unwinding the caller's blocks; its exit status."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        work()
    except tfos_fast.errors.ClusterError as error:
        os._exit(5 if "not to its fork" in str(error) else 6)
    except BaseException:
        os._exit(7)
    os._exit(0)


def test_a_fork_of_the_driver_leaves_the_cluster_alone(sc, tmp_path):
    with tfos_fast.run(sc, mains.collect, {"out": str(tmp_path)}, 1, **SMALL) as cluster:

        def leave():
            with cluster:
                sys.exit(3)  # by an exception, as every sys.exit() in a block

        def leave_well():
            with cluster:
                pass

        assert [forked(work) for work in (leave, leave_well, cluster.abort, cluster.shutdown)] == [7, 0, 0, 5]
        assert cluster.feed(sc.parallelize(range(50), 2)).rows == 50
        assert rows(cluster.shutdown()) == 50
    assert sorted(mains.noted(tmp_path)[0]) == [*range(50)]  # two partitions, in any order


def test_threads_and_a_signals_handler_shut_down_at_the_same_time(sc, tmp_path):
    with tfos_fast.run(sc, mains.collect_and_linger, {"out": str(tmp_path)}, 1, **SMALL) as cluster:
        cluster.feed(sc.parallelize(range(50), 2))
        reports = []
        before = signal.signal(signal.SIGUSR1, lambda *_: reports.append(cluster.shutdown()))
        try:
            threads = [threading.Thread(target=lambda: reports.append(cluster.shutdown())) for _ in range(3)]
            for thread in threads:
                thread.start()
            os.kill(os.getpid(), signal.SIGUSR1)
            reports.append(cluster.shutdown())
            for thread in threads:
                thread.join()
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert [rows(report) for report in reports] == [50] * 5


def test_a_process_that_is_stopped_behind_its_main_is_no_failure(sc, tmp_path):
    args = {"out": str(tmp_path), "how": ["stopped_at_exit"]}
    with tfos_fast.run(sc, badly.main, args, 1, **SMALL) as cluster:
        cluster.feed(sc.parallelize(range(50), 2))
        report = cluster.shutdown(stall_timeout=1.0, exit_timeout=4.0)
    assert rows(report) == 50
    assert "main returned" in report.nodes["worker:0"].note
