"""Ends that are bad behind a good ``main``: nothing fails, nothing is trained again, and nothing is left."""

from __future__ import annotations

import re
import time

import pytest

import tfos_fast
from tests.spark.mains import noted
from tests.support import badly
from tfos_fast import InputMode
from tfos_fast.channel.host.processes import alive, started
from tfos_fast.errors import NodeKilled

pytestmark = [pytest.mark.spark, pytest.mark.timeout(180)]

ROWS = [*range(100)]
SMALL = {"memory": "1m", "slot_bytes": "64k"}


def fed(sc, out, how, **shutdown):
    """The report of a cluster whose nodes have read all rows, and end in these ways. Each may be started again."""
    with tfos_fast.run(sc, badly.main, {"out": str(out), "how": how}, 2, max_restarts=1, **SMALL) as cluster:
        assert cluster.feed(sc.parallelize(ROWS, 4)).rows == len(ROWS)
        report = cluster.shutdown(**shutdown)
    assert sorted(row for rows in noted(out).values() for row in rows) == ROWS
    assert report.failures == ()
    assert all(node.restarts == () and node.failure == "" for node in report.nodes.values())
    assert sum(node.rows for node in report.nodes.values()) == len(ROWS)
    return report


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (
            ["crash_at_exit", "status_at_exit"],
            [r"signal 11 \(SIGSEGV\) after main had returned", "status 7 after main had returned"],
        ),
        (
            ["exit_zero", "killed_at_exit"],
            ["status 0 before main had returned, as by os._exit", r"SIGKILL\).* after main had returned"],
        ),
    ],
)
def test_a_bad_end_behind_a_good_main(sc, tmp_path, how, says):
    report = fed(sc, tmp_path, how)
    for i in range(2):
        assert re.search(rf"^worker:{i} on .*its trainer \(process \d+\).*{says[i]}", report.nodes[f"worker:{i}"].note)
        assert report.nodes[f"worker:{i}"].note in str(report)


@pytest.mark.parametrize("setting", [{"exit_timeout": 1.0}, {"timeout": 3.0}])
def test_a_process_that_does_not_end_behind_main(sc, tmp_path, caplog, setting):
    begin = time.monotonic()
    report = fed(sc, tmp_path, ["thread", "exit_handler"], **setting)
    assert time.monotonic() - begin < 60  # it slept for 600
    notes = [report.nodes[f"worker:{i}"].note for i in range(2)]
    assert re.search(r"main returned \d+ s ago, and its process \(\d+\) waits for threads that are no daemons \(saver\)", notes[0])
    assert re.search(r"main returned \d+ s ago, and its process \(\d+\) has not ended yet", notes[1])
    assert "The setting is exit_timeout of shutdown" in caplog.text
    assert [report.nodes[f"worker:{i}"].status for i in range(2)] == [-15, -9]


def test_a_program_without_a_feed_may_end_by_os_exit(sc, tmp_path):
    args = {"out": str(tmp_path), "how": ["exit_zero", "daemon_thread"]}
    with tfos_fast.run(sc, badly.unread, args, 2, input_mode=InputMode.TENSORFLOW) as cluster:
        report = cluster.shutdown()
    assert report.failures == ()
    assert "as by os._exit" in report.nodes["worker:0"].note


def test_os_exit_before_the_end_of_the_feed_is_a_failure(sc, tmp_path):
    with pytest.raises(
        NodeKilled, match=r"ended with status 0 without a word from main, as by os._exit, before its feed had ended"
    ):
        with tfos_fast.run(sc, badly.early, {"out": str(tmp_path)}, 2, **SMALL) as cluster:
            cluster.feed(sc.parallelize(range(100_000), 4))


def test_what_trainers_have_started_is_gone_after_shutdown(sc, tmp_path):
    with tfos_fast.run(
        sc, badly.families, {"out": str(tmp_path), "then": "returns"}, 2, input_mode=InputMode.TENSORFLOW
    ) as cluster:
        deadline = time.monotonic() + 60
        while len(noted(tmp_path, "pids")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pids = [pid for found in noted(tmp_path, "pids").values() for pid in found]
        starts = [started(pid) for pid in pids]
        assert all(starts)
        cluster.shutdown()
    assert [pid for pid, start in zip(pids, starts, strict=True) if alive(pid, start)] == []
