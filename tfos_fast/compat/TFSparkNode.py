"""A node as ``map_fun`` sees it, and the functions for ``mapPartitions`` that a cluster consists of.

``run`` makes a node by hand, out of a reservation server and a manager, in the process where it is called; clusters of
``TFCluster.run`` do not need it.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tfos_fast.compat import TFManager, TFNode, gone, gpu_info, reservation, util
from tfos_fast.errors import ClusterError, NotEnoughGpus

CHIEFS = ("chief", "master")
TRAINS = (*CHIEFS, "worker")


class TFNodeContext:
    """Place of a node in its cluster; the second argument of ``map_fun``.

    Attributes
    ----------
    worker_num, executor_id : int
        Number of this node among all.
    job_name : str
    task_index : int
        Number among the nodes of its role.
    cluster_spec : dict
        Role -> addresses.
    num_workers : int
        Nodes that train: chief, master and workers.
    defaultFS : str
    working_dir : str
        Folder of the driver when the cluster was started.
    mgr : object
    tmp_socket : object
        What holds this node's port until ``release_port()``; None when nothing needs to.
    """

    def __init__(
        self,
        executor_id: int = 0,
        job_name: str = "",
        task_index: int = 0,
        cluster_spec: Mapping[str, list[str]] | None = None,
        defaultFS: str = "file://",
        working_dir: str = ".",
        mgr: Any = None,
        tmp_socket: Any = None,
    ) -> None:
        self.worker_num = self.executor_id = executor_id
        self.job_name = job_name
        self.task_index = task_index
        self.cluster_spec = dict(cluster_spec or {})
        self.num_workers = sum(len(self.cluster_spec.get(job, ())) for job in TRAINS)
        self.defaultFS = defaultFS
        self.working_dir = working_dir
        self.mgr = mgr
        self.tmp_socket = tmp_socket

    def absolute_path(self, path: str) -> str:
        """See :func:`tfos_fast.compat.TFNode.hdfs_path`."""
        return TFNode.hdfs_path(self, path)

    def get_data_feed(
        self,
        train_mode: bool = True,
        qname_in: str = "input",
        qname_out: str = "output",
        input_mapping: Mapping[str, str] | None = None,
    ) -> TFNode.DataFeed:
        """See :class:`tfos_fast.compat.TFNode.DataFeed`."""
        return TFNode.DataFeed(self.mgr, train_mode, qname_in, qname_out, input_mapping)

    def start_cluster_server(self, num_gpus: int = 1, rdma: bool = False) -> tuple[Any, Any]:
        """See :func:`tfos_fast.compat.TFNode.start_cluster_server`."""
        return TFNode.start_cluster_server(self, num_gpus, rdma)

    def export_saved_model(self, sess: Any, export_dir: str, tag_set: str, signatures: dict[str, Any]) -> None:
        """See :func:`tfos_fast.compat.TFNode.export_saved_model`."""
        TFNode.export_saved_model(sess, export_dir, tag_set, signatures)

    def hold(self) -> None:
        """Serve others until the driver stops this node, which is neither fed nor waited for: a worker of ParameterServerStrategy.

        TensorFlowOnSpark has no such thing; there a worker that never returns holds up ``shutdown``.
        """
        self.mgr.hold()

    def release_port(self) -> None:
        """See :func:`tfos_fast.compat.TFNode.release_port`."""
        TFNode.release_port(self)


def set_tf_config(cluster_spec: Mapping[str, list[str]], job_name: str, task_index: int) -> None:
    """TF_CONFIG is set where the cluster has a chief or master, and nowhere else."""
    if any(job in cluster_spec for job in CHIEFS):
        task = {"type": job_name, "index": task_index}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster_spec, "task": task, "environment": "cloud"})
    else:
        os.environ.pop("TF_CONFIG", None)


def run(
    fn: Callable[[Any, TFNodeContext], Any],
    tf_args: Any,
    cluster_meta: Mapping[str, Any],
    tensorboard: bool,
    log_dir: str | None,
    queues: Iterable[str],
    background: bool,
) -> Callable[[Iterable[int]], None]:
    """A function for ``mapPartitions`` that runs ``fn`` as the node whose number it gets, in the calling process.

    Parameters
    ----------
    fn : callable
    tf_args : object
        A list becomes ``sys.argv``.
    cluster_meta : mapping
        ``cluster_template`` (role -> numbers of nodes), ``server_addr`` of a started ``reservation.Server``, ``default_fs``,
        ``working_dir``.
    tensorboard, log_dir, background
        Must be false: TensorBoard, and a process of its own for ``fn``, come with ``TFCluster.run``.
    queues : iterable of str
    """
    if tensorboard or background:
        raise ClusterError("TFSparkNode.run makes a node in the calling process: for TensorBoard or a background use TFCluster.run")

    def node(numbers: Iterable[int]) -> None:
        (number,) = numbers
        places = [(job, members.index(number)) for job, members in cluster_meta["cluster_template"].items() if number in members]
        if not places:
            raise ClusterError(f"node {number} is not in the cluster_template {dict(cluster_meta['cluster_template'])}")
        job_name, task_index = places[0]
        host = util.get_ip_address()
        manager = TFManager.start(secrets.token_bytes(16), queues)
        port = reservation.held_port(host)
        client = reservation.Client(cluster_meta["server_addr"])
        try:
            client.register(
                {"executor_id": number, "host": host, "job_name": job_name, "task_index": task_index, "port": port.port}
            )
            spec = _get_cluster_spec(sorted(client.await_reservations(), key=lambda node: node["executor_id"]))
            set_tf_config(spec, job_name, task_index)
            num_gpus = getattr(tf_args, "num_gpus", None)
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, _choose_gpus(num_gpus, spec, job_name, task_index)))
            manager.set("state", "running")
            if cluster_meta.get("release_port", True):
                port.close()
            context = TFNodeContext(
                number, job_name, task_index, spec, cluster_meta.get("default_fs", "file://"),
                cluster_meta.get("working_dir", os.getcwd()), manager, None if cluster_meta.get("release_port", True) else port,
            )  # fmt: skip
            if isinstance(tf_args, list):
                sys.argv = [str(part) for part in tf_args]
            fn(tf_args, context)
        finally:
            client.close()
            port.close()
            manager.shutdown()

    return node


def _has_spark_resource_api() -> bool:
    """Whether Spark deals GPUs out to tasks: since 3.0, so always."""
    return True


def _get_cluster_spec(sorted_cluster_info: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Role -> addresses, of nodes in the order of their numbers."""
    spec: dict[str, list[str]] = {}
    last = None
    for entry in sorted_cluster_info:
        if entry["executor_id"] == last:
            raise ClusterError(f"two nodes have registered as number {last}: was a task tried again while its first attempt runs?")
        last = entry["executor_id"]
        spec.setdefault(entry["job_name"], []).append(f"{entry['host']}:{entry['port']}")
    return spec


def _choose_gpus(num_gpus: int | None, spec: Mapping[str, list[str]], job_name: str, task_index: int) -> list[str]:
    """Spark's own GPUs for this task, else those of its host, unless it is a pod.

    Without a number: all that Spark gave, or one if the host has any.
    """
    found: list[str] = []
    if _has_spark_resource_api():
        from pyspark import TaskContext

        task = TaskContext.get()
        resources = task.resources() if task is not None else {}
        if "gpu" in resources:
            found = list(resources["gpu"].addresses)[:num_gpus]
    wanted = 1 if num_gpus is None else num_gpus
    in_pod = "SPARK_EXECUTOR_POD_IP" in os.environ  # whose host's GPUs are not its own
    if not found and wanted and not in_pod and gpu_info.is_gpu_available():
        mine = spec[job_name][task_index]
        host = mine.rpartition(":")[0]
        peers = [address for addresses in spec.values() for address in addresses if address.rpartition(":")[0] == host]
        found = list(gpu_info.get_gpus(wanted, peers.index(mine), format=gpu_info.AS_LIST))
    if num_gpus is not None and len(found) < num_gpus:
        raise NotEnoughGpus(
            f"num_gpus={num_gpus} asks for GPUs, and there are {len(found)} for {job_name}:{task_index}. Give Spark's executors "
            "GPUs (spark.executor.resource.gpu.amount), or set num_gpus to 0"
        )
    return found


_get_manager = gone.function(
    "TFSparkNode._get_manager(cluster_info, host, executor_id)",
    "TFSparkNode.train(cluster_info, cluster_meta) or TFSparkNode.inference(cluster_info) in tasks, and use ctx.mgr in map_fun",
)


def _nodes(cluster_info: list[dict[str, Any]]) -> tuple[tuple[Any, ...], Any]:
    fed = [entry for entry in cluster_info if entry["job_name"] in TRAINS]
    if not fed or "node" not in fed[0]:
        raise ClusterError(
            "this is not the cluster_info of a cluster started by TFCluster.run, so its nodes cannot be fed from tasks"
        )
    return tuple(entry["node"] for entry in fed), fed[0]["authkey"]


def train(
    cluster_info: list[dict[str, Any]], cluster_meta: Mapping[str, Any], feed_timeout: float = 600, qname: str = "input"
) -> Callable[[Iterable[Any]], list[bool]]:
    """A function for ``mapPartitions`` that feeds a partition to a node of a running cluster."""
    from tfos_fast.cluster.tasks.feed import Feeder

    if qname != "input":
        raise ClusterError(f"tasks feed the queue 'input'; {qname!r} is a named feed: give its data to cluster.train(..., qname=)")
    nodes, keys = _nodes(cluster_info)
    feeder = Feeder(nodes, keys, f"tasks{secrets.token_hex(4)}", feed_timeout)

    def feed(rows: Iterable[Any]) -> list[bool]:
        for _ in feeder.rows(0, rows):
            pass
        return [False]

    return feed


def inference(
    cluster_info: list[dict[str, Any]], feed_timeout: float = 600, qname: str = "input"
) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """A function for ``mapPartitions`` that gives one result for each row."""
    from tfos_fast.cluster.tasks.infer import Inferrer

    inferrer = Inferrer(*_nodes(cluster_info), feed_timeout)

    def infer(rows: Iterable[Any]) -> Iterable[Any]:
        from tfos_fast.cluster.spark.task import attempt_here

        return inferrer.rows(attempt_here()[0], rows)

    return infer


def shutdown(
    cluster_info: list[dict[str, Any]], grace_secs: float = 0, queues: Iterable[str] = ("input",)
) -> Callable[[Iterable[Any]], list[bool]]:
    """A function for ``mapPartitions`` that does nothing: the driver ends the feed of every node, by ``cluster.shutdown()``."""
    _nodes(cluster_info)

    def end(rows: Iterable[Any]) -> list[bool]:
        for _ in itertools.islice(rows, 0):
            pass
        return [True]

    return end
