"""The names of TensorFlowOnSpark without Spark: queues fed by hand, the rendezvous, the drop-in package."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest

from tfos_fast.channel.processes import runtime_base
from tfos_fast.cli import DROPIN, with_dropin
from tfos_fast.compat import TFManager, TFNode, gpu_info, marker, reservation, util
from tfos_fast.errors import ClusterError, ClusterTimeout


@pytest.fixture
def manager():
    started = TFManager.start(b"key", ["input", "output"])
    yield started
    started.shutdown()


def test_a_feed_of_queues_fed_by_hand(manager):
    for row in [(1, "a"), (2, "b"), marker.EndPartition(), (3, "c"), None]:
        manager.get_queue("input").put(row)
    feed = TFNode.DataFeed(manager, train_mode=False)
    assert feed.next_batch(10) == [(1, "a"), (2, "b")]
    assert not feed.should_stop()
    assert feed.next_batch(10) == [(3, "c")]
    assert feed.should_stop()
    assert feed.done_feeding
    feed.batch_results([5, 6])
    assert [manager.get_queue("output").get() for _ in range(2)] == [5, 6]


def test_columns_come_in_the_order_of_their_names(manager):
    for row in [[1, 10], [2, 20], None]:
        manager.get_queue("input").put(row)
    feed = TFNode.DataFeed(manager, input_mapping={"b": "y", "a": "x"})
    batch = feed.next_batch(5)
    assert list(batch.items()) == [("x", [1, 2]), ("y", [10, 20])]


def test_terminate_drops_what_is_queued(manager):
    manager.get_queue("input").put(1)
    TFNode.DataFeed(manager).terminate()
    assert manager.get_queue("input").empty()
    assert TFManager.connect(manager.address, b"key").get("state") == "terminating"
    with pytest.raises(ClusterError, match="no queue 'validation'"):
        manager.get_queue("validation")


def test_training_needs_no_queue_for_results_and_ends_when_terminated():
    manager = TFManager.start(b"key", ["input"])
    try:
        feed = TFNode.DataFeed(manager)
        manager.get_queue("input").put(1)
        assert feed.next_batch(1) == [1]
        feed.terminate()
        assert feed.should_stop()
        assert feed.next_batch(5) == []
    finally:
        manager.shutdown()


def test_reservations(monkeypatch):
    monkeypatch.setenv("TFOS_SERVER_HOST", "127.0.0.1")
    server = reservation.Server(2)
    address = server.start()
    clients = [reservation.Client(pickle.loads(pickle.dumps(address))), reservation.Client(tuple(address))]
    try:
        clients[0].register({"executor_id": 0})
        with pytest.raises(ClusterTimeout, match="1 of 2 nodes"):
            server.await_reservations(None, timeout=0)
        clients[1].register({"executor_id": 1})
        assert clients[0].await_reservations() == server.await_reservations() == [{"executor_id": 0}, {"executor_id": 1}]
        assert not server.done
        clients[1].request_stop()
        assert server.done
    finally:
        for client in clients:
            client.close()
        server.stop()


def test_gpus_of_a_node_that_are_patched(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setattr(gpu_info, "is_gpu_available", lambda: True)
    monkeypatch.setattr(gpu_info, "get_gpus", lambda count, index: f"{count} for {index}")
    util.single_node_env(2, 2, ["a:1", "b:1", "a:2"])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2 for 1"
    util.single_node_env(0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_the_dropin_is_compat_itself_and_hidden_unless_asked_for():
    program = "import tensorflowonspark.gpu_info as a; from tfos_fast.compat import gpu_info as b; print(a is b)"
    for path, expected in ((str(DROPIN), "True\n"), ("", "")):
        environ = dict(os.environ, PYTHONPATH=os.pathsep.join((path, os.getcwd())))
        done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=50)
        assert done.stdout == expected, done.stderr


def test_submit_keeps_the_users_own_path():
    words = with_dropin(["--conf", "spark.executorEnv.PYTHONPATH=/mine", "a.py", "--x"], "/d")
    assert words == [
        "--conf",
        "spark.yarn.appMasterEnv.PYTHONPATH=/d",
        "--conf",
        f"spark.executorEnv.PYTHONPATH=/d{os.pathsep}/mine",
        "a.py",
        "--x",
    ]


def test_the_keys_of_a_server_go_with_a_program_that_fails():
    program = "from tfos_fast.compat import reservation; print(*reservation.Server(1).start()); raise ValueError('it failed')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert "it failed" in done.stderr
    host, port = done.stdout.split()
    assert not (runtime_base() / f"reservation-{host}-{port}").exists()


def test_a_server_where_no_runtime_folder_can_be(tmp_path, monkeypatch, caplog):
    """Whoever gets its address with the keys reaches it all the same."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("TFOS_RUNTIME_DIR", str(blocked))
    server = reservation.Server(1)
    address = server.start()
    try:
        assert "its keys are kept nowhere" in caplog.text
        client = reservation.Client(pickle.loads(pickle.dumps(address)))
        client.request_stop()
        client.close()
        assert server.done
    finally:
        server.stop()
