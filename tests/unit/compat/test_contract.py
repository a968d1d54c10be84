"""The names and signatures that scripts for TensorFlowOnSpark rely on, and the helpers that need no cluster."""

from __future__ import annotations

import inspect
import os
import re
import types
from pathlib import Path

import pytest

from tfos_fast import compat
from tfos_fast.compat import TFCluster, TFManager, TFNode, TFParallel, TFSparkNode, gpu_info, reservation, util
from tfos_fast.errors import ClusterError, NotEnoughGpus, NotThere

SIGNATURES = {
    TFCluster.run: "sc, map_fun, tf_args, num_executors, num_ps, tensorboard=False, input_mode=0, log_dir=None, "
    "driver_ps_nodes=False, master_node=None, reservation_timeout=600, queues=('input', 'output', 'error'), eval_node=False, "
    "release_port=True",
    TFCluster.TFCluster.train: "self, dataRDD, num_epochs=0, feed_timeout=600, qname='input'",
    TFCluster.TFCluster.inference: "self, dataRDD, feed_timeout=600, qname='input'",
    TFCluster.TFCluster.shutdown: "self, ssc=None, grace_secs=0, timeout=259200",
    TFCluster.TFCluster.tensorboard_url: "self",
    TFNode.DataFeed: "mgr, train_mode=True, qname_in='input', qname_out='output', input_mapping=None",
    TFNode.DataFeed.next_batch: "self, batch_size",
    TFNode.DataFeed.should_stop: "self",
    TFNode.DataFeed.batch_results: "self, results",
    TFNode.DataFeed.terminate: "self",
    TFNode.hdfs_path: "ctx, path",
    TFNode.start_cluster_server: "ctx, num_gpus=1, rdma=False",
    TFNode.export_saved_model: "sess, export_dir, tag_set, signatures",
    TFNode.release_port: "ctx",
    TFSparkNode.TFNodeContext.absolute_path: "self, path",
    TFSparkNode.TFNodeContext.get_data_feed: "self, train_mode=True, qname_in='input', qname_out='output', input_mapping=None",
    TFSparkNode.TFNodeContext.start_cluster_server: "self, num_gpus=1, rdma=False",
    TFSparkNode.TFNodeContext.export_saved_model: "self, sess, export_dir, tag_set, signatures",
    TFSparkNode.TFNodeContext.release_port: "self",
    TFSparkNode.run: "fn, tf_args, cluster_meta, tensorboard, log_dir, queues, background",
    TFSparkNode.train: "cluster_info, cluster_meta, feed_timeout=600, qname='input'",
    TFSparkNode.inference: "cluster_info, feed_timeout=600, qname='input'",
    TFSparkNode.shutdown: "cluster_info, grace_secs=0, queues=('input',)",
    TFManager.start: "authkey, queues, mode='local'",
    TFManager.connect: "address, authkey",
    TFManager.TFManager.get_queue: "self, name",
    TFManager.TFManager.get: "self, key",
    TFManager.TFManager.set: "self, key, value",
    TFParallel.run: "sc, map_fn, tf_args, num_executors, use_barrier=True",
    reservation.Server: "count",
    reservation.Server.await_reservations: "self, sc=None, status=None, timeout=600",
    reservation.Server.stop: "self",
    reservation.Client: "server_addr",
    reservation.Client.register: "self, reservation",
    reservation.Client.get_reservations: "self",
    reservation.Client.await_reservations: "self",
    reservation.Client.request_stop: "self",
    reservation.Client.close: "self",
    gpu_info.is_gpu_available: "",
    gpu_info.get_gpus: "num_gpu=1, worker_index=-1, format='string'",
    compat.compat.export_saved_model: "model, export_dir, is_chief=False",
    compat.compat.disable_auto_shard: "options",
    compat.compat.is_gpu_available: "",
    util.single_node_env: "num_gpus=1, worker_index=-1, nodes=()",
    util.get_ip_address: "",
    util.find_in_path: "path, file",
    util.write_executor_id: "num",
    util.read_executor_id: "",
}


@pytest.mark.parametrize("what", SIGNATURES, ids=lambda what: f"{what.__module__.rpartition('.')[2]}.{what.__qualname__}")
def test_signature(what):
    found = []
    for parameter in inspect.signature(what).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            default = parameter.default
            value = int(default) if isinstance(default, TFCluster.InputMode) else default
            found.append(parameter.name if default is parameter.empty else f"{parameter.name}={value!r}")
    assert ", ".join(found) == SIGNATURES[what]


def test_values():
    assert (TFCluster.InputMode.TENSORFLOW, TFCluster.InputMode.SPARK) == (0, 1)
    assert (gpu_info.AS_STRING, gpu_info.AS_LIST) == ("string", "list")
    assert (reservation.TFOS_SERVER_HOST, reservation.TFOS_SERVER_PORT) == ("TFOS_SERVER_HOST", "TFOS_SERVER_PORT")
    ctx = TFSparkNode.TFNodeContext(3, "worker", 1, {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": ["d:1"]})
    assert (ctx.worker_num, ctx.executor_id, ctx.job_name, ctx.task_index, ctx.num_workers) == (3, 3, "worker", 1, 3)
    assert (ctx.defaultFS, ctx.working_dir, ctx.mgr, ctx.tmp_socket) == ("file://", ".", None, None)


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("hdfs://name:8020", "hdfs://other/model", "hdfs://other/model"),
        ("hdfs://name:8020", "file:/tmp/model", "file:/tmp/model"),
        ("hdfs://name:8020", "/model", "hdfs://name:8020/model"),
        ("hdfs://name:8020", "model", "hdfs://name:8020/user/ann/model"),
        ("viewfs://name", "model", "viewfs://name/user/ann/model"),
        ("file://", "/model", "file:///model"),
        ("file://", "model", "file:///home/ann/work/model"),
        ("s3a://bucket", "model", "s3a://bucket/model"),
    ],
)
def test_paths(monkeypatch, root, path, expected):
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    ctx = TFSparkNode.TFNodeContext(defaultFS=root, working_dir="/home/ann/work")
    assert TFNode.hdfs_path(ctx, path) == ctx.absolute_path(path) == expected


def test_odds_and_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClusterError, match=r"ctx\.executor_id"):
        util.read_executor_id()
    util.write_executor_id(7)
    assert util.read_executor_id() == 7
    assert util.find_in_path(f"/nowhere{os.pathsep}{tmp_path}", "executor_id") == str(tmp_path / "executor_id")
    assert util.find_in_path("/nowhere", "executor_id") is False
    assert util.get_ip_address().count(".") == 3


@pytest.fixture
def four_gpus(tmp_path, monkeypatch):
    """A stand-in for nvidia-smi: four GPUs, of which the second is in use."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\ncase "$*" in *compute-apps*) echo GPU-b;; *index,uuid*) '
        'printf "0, GPU-a\\n1, GPU-b\\n2, GPU-c\\n3, GPU-d\\n";; *) echo GPU;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


def test_gpus_by_nvidia_smi(four_gpus, monkeypatch):
    assert gpu_info.is_gpu_available()
    assert gpu_info.get_gpus(1, 0) == "0"
    assert gpu_info.get_gpus(1, 1, gpu_info.AS_LIST) == ["2"]
    assert gpu_info.get_gpus(3) == "0,2,3"
    with pytest.raises(ClusterError, match="4 GPUs are needed; this host has 4, of which 3 are free; lower num_gpus"):
        gpu_info.get_gpus(4)
    spec = {"chief": ["a:1"], "worker": ["b:1", "a:2"]}
    assert TFSparkNode._choose_gpus(1, spec, "worker", 1) == ["2"]  # the second node of its host
    assert TFSparkNode._choose_gpus(None, spec, "worker", 1) == ["2"]
    assert TFSparkNode._choose_gpus(0, spec, "worker", 1) == []
    monkeypatch.setenv("SPARK_EXECUTOR_POD_IP", "10.0.0.1")
    assert TFSparkNode._choose_gpus(None, spec, "worker", 1) == []
    with pytest.raises(NotEnoughGpus, match=r"num_gpus=1 .* there are 0 for worker:1"):
        TFSparkNode._choose_gpus(1, spec, "worker", 1)


def test_no_nvidia_smi(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not gpu_info.is_gpu_available()
    with pytest.raises(ClusterError, match="no nvidia-smi"):
        gpu_info.get_gpus()
    spec = {"worker": ["a:1"]}
    assert TFSparkNode._choose_gpus(None, spec, "worker", 0) == TFSparkNode._choose_gpus(0, spec, "worker", 0) == []
    with pytest.raises(NotEnoughGpus, match="set num_gpus to 0"):
        TFSparkNode._choose_gpus(1, spec, "worker", 0)


def test_what_is_gone_says_what_stands_for_it():
    from tfos_fast.compat import dfutil, pipeline

    for call, instead in (
        (lambda: TFCluster.reserve(None, 2, 1, False, 1), "TFCluster.run"),
        (lambda: TFNode.next_batch(None, 10), r"DataFeed\(mgr\).next_batch"),
        (lambda: TFNode.batch_results(None, []), r"DataFeed\(mgr, False\).batch_results"),
        (lambda: TFNode.terminate(None), r"DataFeed\(mgr\).terminate"),
        (lambda: dfutil.loadTFRecords(None, "folder"), "tfos_fast.parquet"),
        (lambda: pipeline.TFEstimator(None, None), r"cluster.train\(dataframe\)"),
        (lambda: type("Mine", (pipeline.TFModel, pipeline.HasBatchSize), {})(None), "infer"),
        (lambda: pipeline.yield_batch([], 1), "infer"),
    ):
        with pytest.raises(NotThere, match=instead) as told:
            call()
        assert "docs/migrating-from-tfos.md" in str(told.value)


@pytest.mark.tensorflow
def test_names_that_tensorflow_no_longer_has():
    tf = pytest.importorskip("tensorflow")
    from tfos_fast.compat.gone import what_stands_for

    def said(what):
        with pytest.raises(AttributeError) as told:
            what()
        return what_stands_for(told.value)

    assert "Keras" in said(lambda: tf.estimator.RunConfig())
    assert "package" in said(lambda: tf.contrib.learn)
    assert "tf.compat.v1.placeholder" in said(lambda: tf.placeholder)
    assert "tf.compat.v1.train.replica_device_setter" in said(lambda: tf.train.replica_device_setter)
    assert said(lambda: tf.no_such_name) is None
    assert said(lambda: object().estimator) is None


@pytest.mark.tensorflow
@pytest.mark.parametrize("monitored", [False, True])
def test_a_session_is_exported(tmp_path, monitored):
    tf = pytest.importorskip("tensorflow")
    v1 = tf.compat.v1
    folder = str(tmp_path / "model")
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None])
        y = x * v1.get_variable("w", [], initializer=v1.ones_initializer()) * 2
        signatures = {"double": {"inputs": {"x": x}, "outputs": {"y": y}}}
        with v1.train.MonitoredTrainingSession() if monitored else v1.Session() as session:
            if not monitored:
                session.run(v1.global_variables_initializer())
            TFSparkNode.TFNodeContext().export_saved_model(session, folder, "serve,cpu", signatures)
            assert session.graph.finalized is monitored
    model = tf.saved_model.load(folder, tags=["serve", "cpu"])
    assert model.signatures["double"](x=tf.constant([3.0]))["y"].numpy().tolist() == [6.0]


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["keras", "tf_keras", "module"])
def test_a_model_is_exported_by_the_chief(tmp_path, kind):
    tf = pytest.importorskip("tensorflow")
    if kind == "module":
        model = tf.Module()
        model.w = tf.Variable(2.0)
    else:
        keras = pytest.importorskip(kind)
        model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    compat.compat.export_saved_model(model, str(tmp_path / "worker"), False)
    compat.compat.export_saved_model(model, str(tmp_path / "chief"), True)
    assert not (tmp_path / "worker").exists()
    assert (tmp_path / "chief" / "saved_model.pb").exists()


@pytest.mark.tensorflow
def test_versions_of_tensorflow():
    tf = pytest.importorskip("tensorflow")
    options = tf.data.Options()
    compat.compat.disable_auto_shard(options)
    assert options.experimental_distribute.auto_shard_policy == tf.data.experimental.AutoShardPolicy.OFF
    assert compat.compat.is_gpu_available() is bool(tf.config.list_physical_devices("GPU"))


def test_every_module_is_there():
    for name in compat.MODULES:
        assert isinstance(getattr(compat, name), types.ModuleType)
    with pytest.raises(AttributeError, match="it has TFCluster"):
        _ = compat.dfutils


def test_the_table_names_tests_that_exist():
    tests = Path(__file__).parents[2]
    table = (tests / "spark" / "CONTRACT.md").read_text()
    sources = [(path.name, path.read_text()) for path in tests.rglob("*.py")]
    assert set(re.findall(r"\w+\.py", table)) <= {name for name, _ in sources}
    named = re.findall(r"(?:(\w+\.py)::)?\b(test_\w+)\b(?!\.py)", table)
    assert len(named) > 50
    missing = [name for file, name in named if not any(f"def {name}(" in text for at, text in sources if file in ("", at))]
    assert missing == []
