"""The names of TensorFlowOnSpark without Spark: queues fed by hand, the rendezvous, the drop-in package."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from typing import Any

import msgspec
import pytest

from tests.support.helpers import ended, in_thread
from tfos_fast.channel import Channel
from tfos_fast.channel.host.processes import runtime_base
from tfos_fast.cli import with_dropin
from tfos_fast.cluster.protocol.keys import ClusterKeys
from tfos_fast.cluster.trainer.context import Context
from tfos_fast.compat import DROPIN, TFManager, TFNode, TFSparkNode, gpu_info, marker, node, reservation, submitted, util
from tfos_fast.compat.manager import NodeManager
from tfos_fast.errors import ClusterError, ClusterTimeout, NotThere, PortUnavailable, RoleError


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


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\xff",
        b"\x81\xa4kind\xa1\xff",
        b"\x82\xa4kind\xa3REG\xa4data\x81\xa1a\xa1\xff",
        b"\x82\xa4kind\xa3REG\xa4data" + b"\x91" * 5000,
    ],
)
def test_a_reservation_server_goes_on_whatever_it_is_told(monkeypatch, said):
    monkeypatch.setenv("TFOS_SERVER_HOST", "127.0.0.1")
    server = reservation.Server(1)
    client = reservation.Client(server.start())
    try:
        client._socket.send(said)
        assert client._socket.poll(30_000)
        assert msgspec.msgpack.decode(client._socket.recv()) == "ERR"
        assert client.register({"executor_id": 0}) == "OK"
    finally:
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


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, f"# {name}")
    return str(path)


def test_submit_leaves_the_original_package_out(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    original = archive(tmp_path / "tfspark.zip", "tensorflowonspark/", "tensorflowonspark/x.py", "__MACOSX/x.py", "README.md")
    both = archive(tmp_path / "all.zip", "tensorflowonspark/__init__.py", "mine/__init__.py", "mine/data.txt")
    mine = archive(tmp_path / "mine.zip", "mine/__init__.py")
    module = str(tmp_path / "dist.py")
    said: list[str] = []

    def cleaned(*options):
        said.clear()
        return submitted.without_original(options, said.append)

    assert cleaned("--master", "m", "--py-files", f"{original},{module}") == ["--master", "m", "--py-files", module]
    assert said == [f"{original} brings the original package tensorflowonspark, which would hide that of tfos-fast; it is left out"]
    assert cleaned("--py-files", original, "--name", "n") == ["--name", "n"]
    assert cleaned(f"--py-files=file://{original}") == []
    assert cleaned("--conf", f"spark.submit.pyFiles={original}", "-v") == ["-v"]
    assert cleaned(f"--conf=spark.submit.pyFiles={mine},{original}") == [f"--conf=spark.submit.pyFiles={mine}"]
    assert cleaned("--py-files", "hdfs:///lib/tfspark.zip,hdfs:///lib/mine.zip") == ["--py-files", "hdfs:///lib/mine.zip"]
    assert "looks like the original" in said[0]
    assert cleaned("--py-files", f"{mine},{module}") == ["--py-files", f"{mine},{module}"]
    assert said == []
    (word,) = cleaned("--py-files", both)[1:]
    assert word in said[0]
    assert word != both
    with zipfile.ZipFile(word) as copy:
        assert copy.namelist() == ["mine/__init__.py", "mine/data.txt"]
    assert cleaned("--py-files", both)[1:] == [word]
    assert os.listdir(os.path.dirname(word)) == ["all.zip"]


def test_a_node_imports_ours_although_the_original_comes_first_on_its_path(tmp_path):
    """As after sc.addPyFile("tfspark.zip"); the user's module imports at once."""
    (tmp_path / "tensorflowonspark").mkdir()
    (tmp_path / "tensorflowonspark" / "__init__.py").write_text("ours = False\nTFNode = None\n")
    (tmp_path / "mine.py").write_text("from tensorflowonspark import TFNode\ndef map_fun(args, ctx):\n    print(TFNode.__name__)\n")
    write = (
        "import sys, cloudpickle, tensorflowonspark, mine; from tfos_fast.compat.node import NodeMain, if_dropin; "
        "sys.stdout.buffer.write(cloudpickle.dumps(NodeMain(if_dropin(), mine.map_fun, '', '', (), True)))"
    )
    read = "import sys, pickle; pickle.loads(sys.stdin.buffer.read()).map_fun(None, None)"

    def python(program, given, *path):
        environ = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, path)))
        return subprocess.run([sys.executable, "-c", program], env=environ, input=given, capture_output=True, timeout=50)

    made = python(write, b"", DROPIN, tmp_path, os.getcwd())
    assert made.stdout, made.stderr
    done = python(read, made.stdout, tmp_path, os.getcwd())
    assert done.stdout == b"tfos_fast.compat.TFNode\n", done.stderr


def test_submit_knows_the_program_among_the_words(tmp_path):
    options = ["--master", "m", "-v", "--conf=a=b", "--py-files", "x.zip"]
    program = ["job.py", "--py-files", "tfspark.zip", "--conf", "spark.executorEnv.PYTHONPATH=/mine"]
    assert submitted.split([*options, *program]) == (options, program)
    assert submitted.beside(program) is None
    (tmp_path / "tensorflowonspark").mkdir()
    (tmp_path / "tensorflowonspark" / "__init__.py").write_text("")
    assert submitted.beside([str(tmp_path / "job.py")]) == tmp_path / "tensorflowonspark"


@pytest.mark.parametrize("how", ["from com.yahoo.ml.tf import TFCluster", "import com.yahoo.ml.tf.TFNode"])
def test_the_name_before_1_0_says_the_new_one(how):
    environ = dict(os.environ, PYTHONPATH=os.pathsep.join((str(DROPIN), os.getcwd())))
    done = subprocess.run([sys.executable, "-c", how], env=environ, capture_output=True, text=True, timeout=50)
    assert "write from tensorflowonspark import TFCluster" in done.stderr


def test_a_ps_may_make_a_feed_and_not_read_it():
    context = Context("ps", 0, 1, {"ps": ["a:1"], "worker": ["a:2"]})
    mgr = NodeManager(context, ("input", "output"))
    feed = TFNode.DataFeed(mgr, input_mapping={"a": "x"})
    assert not feed.should_stop()
    assert not feed.done_feeding
    rows = mgr.get_queue("input")
    with pytest.raises(RoleError, match="ps:0 gets no rows"):
        feed.next_batch(1)
    with pytest.raises(RoleError, match="ps:0 gets no rows"):
        feed.feed.dataset(10)
    with pytest.raises(RoleError, match="ps:0 gets no rows"):
        rows.get()
    feed.terminate()


def test_a_held_port_says_where_it_is():
    spec = {"chief": ["10.0.0.1:2222"], "worker": ["10.0.0.2:3333", "[fe80::1]:4444"]}
    assert node._Port(Context("worker", 0, 1, spec)).getsockname() == ("10.0.0.2", 3333)
    assert node._Port(Context("worker", 1, 2, spec)).getsockname() == ("fe80::1", 4444)
    with pytest.raises(RoleError, match="evaluator:0"):
        node._Port(Context("evaluator", 0, 3, spec)).getsockname()


def test_threads_share_a_feed_of_queues_fed_by_hand(manager):
    feed = TFNode.DataFeed(manager)
    for i in range(200):
        manager.get_queue("input").put(i)
    manager.get_queue("input").put(None)
    rows: list[int] = []

    def read():
        while not feed.should_stop():
            rows.extend(feed.next_batch(7))

    threads = [threading.Thread(target=read, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
        assert not thread.is_alive()
    assert sorted(rows) == [*range(200)]


def test_internals_of_the_rendezvous_that_tests_touch(monkeypatch):
    nodes = reservation.Reservations(2)
    nodes.add({"node": 1})
    assert (nodes.done(), nodes.remaining(), nodes.get()) == (False, 1, [{"node": 1}])
    nodes.add({"node": 2})
    assert (nodes.done(), nodes.remaining()) == (True, 0)
    server = reservation.Server(1)
    monkeypatch.setenv("TFOS_SERVER_HOST", "my_host")
    assert server.get_server_ip() == "my_host"
    assert server.get_server_ports() == [0]
    with server.start_listening_socket() as first:
        port = first.getsockname()[1]
        monkeypatch.setenv("TFOS_SERVER_PORT", str(port))
        assert server.get_server_ports() == [port]
        with pytest.raises(PortUnavailable, match=f"port {port} is taken"):
            server.start_listening_socket()


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


@pytest.mark.parametrize("where", ["node", "by hand"])
def test_states_compare_as_programs_write_it(where: str):
    """A proxy of the original shows a text in quotes, and programs compare it with these."""
    mgr: Any = NodeManager(None, ("input",)) if where == "node" else TFManager.start(b"key", ["input"])  # type: ignore[arg-type]
    mgr.set("state", "terminating")
    state = mgr.get("state")
    assert str(state) == f"{state}" == "%s" % state == "'terminating'"  # noqa: UP031
    assert state == "terminating"
    assert state in ("running", "terminating")
    assert type(state._getvalue()) is str
    assert state._getvalue() == "terminating"
    mgr.set("steps", 5)
    assert mgr.get("steps") == 5
    assert mgr.get("nothing") is None
    if where == "by hand":
        mgr.shutdown()


def test_what_a_program_puts_into_the_queue_error_fails_it(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    context = Context("worker", 0, 0, {"worker": ["a:1"]})

    def map_fun(args: str, ctx: Any) -> None:
        errors = ctx.mgr.get_queue("error")
        if args:
            errors.put(args)

    main = node.NodeMain(None, map_fun, "", "", ("input", "output", "error"), True)
    main("", context)
    with pytest.raises(ClusterError, match="queue 'error': Traceback: no disk"):
        main("Traceback: no disk", context)


def test_a_forked_trainer_reads_although_the_feed_was_made_before():
    """Programs fork what needs TensorFlow, and hand it ctx."""

    def work(ctx: Any, told: Any) -> None:
        feed = TFNode.DataFeed(ctx.mgr)
        told.put(sum(len(feed.next_batch(10)) for _ in iter(feed.should_stop, True)))

    def map_fun(args: Any, ctx: Any) -> None:
        TFNode.DataFeed(ctx.mgr)  # made here, and read in the child
        forking = multiprocessing.get_context("fork")
        told = forking.SimpleQueue()
        child = forking.Process(target=work, args=(ctx, told))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        assert told.get() == 1000

    with Channel.create(memory="1m", slot_bytes="64k", form="rows") as channel:
        feeder, _ = in_thread(lambda: channel_fed(channel))
        context = Context("worker", 0, 0, {"worker": ["a:1"]}, address=channel.address)
        node.NodeMain(None, map_fun, "", "", ("input", "output", "error"), True)(None, context)
        ended(feeder)


def channel_fed(channel: Channel) -> None:
    with channel.writer() as writer:
        writer.write_rows(range(1000))


def test_who_wants_the_manager_of_a_node_learns_what_to_do():
    keys = ClusterKeys("tcp://127.0.0.1:1", b"", b"", b"")
    with pytest.raises(ClusterError, match=r"In map_fun use ctx\.mgr"):
        TFManager.connect("/tmp/node", keys)
    with pytest.raises(NotThere, match=r"call TFSparkNode\.train\(cluster_info, cluster_meta\)"):
        TFSparkNode._get_manager([], "host", 0)
