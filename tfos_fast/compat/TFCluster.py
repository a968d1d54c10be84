"""``run`` and the cluster it gives, with TensorFlowOnSpark's names, over :class:`tfos_fast.Cluster`."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tfos_fast
from tfos_fast.cluster import InputMode
from tfos_fast.cluster.driver.rendezvous import front
from tfos_fast.cluster.host.ports import parse_ports
from tfos_fast.cluster.launch.reserve_task import UNFED_MEMORY
from tfos_fast.cluster.spark.select import engine_of
from tfos_fast.compat import gone, reservation
from tfos_fast.compat.node import NodeMain, if_dropin
from tfos_fast.errors import ClusterError, NotEnoughGpus

log = logging.getLogger(__name__)

MANY = 10  # epochs, when none are said
TOGETHER = 5.0  # seconds that the first node that reads a queue waits for the others, to share its rows with them
FOREVER = 1e9  # seconds
QUEUES = ("input", "output", "error")


class TFCluster:
    """A running cluster. Made by :func:`run`.

    Attributes
    ----------
    cluster : tfos_fast.Cluster
        Our own handle, with all that it can do beyond these names.
    sc : SparkContext
    cluster_info : list of dict
        One for each node: executor_id, host, job_name, task_index, port, ...
    cluster_meta : dict
    input_mode : InputMode
    queues : list of str
    server : reservation.Server
        Its ``done`` says whether a stop was requested.
    nodeRDD : RDD
    """

    def __init__(
        self, sc: Any, cluster: tfos_fast.Cluster, meta: dict[str, Any], server: reservation.Server, queues: list[str]
    ) -> None:
        self.sc = sc
        self.cluster = cluster
        self.cluster_meta = meta
        self.cluster_id = meta["id"]
        self.defaultFS = meta["default_fs"]
        self.working_dir = meta["working_dir"]
        self.num_executors = meta["num_executors"]
        self.input_mode = cluster.input_mode
        self.queues = queues
        self.server = server
        self._over = False
        self.nodeRDD = sc.parallelize(range(self.num_executors), self.num_executors)
        self.cluster_info = [self._describe(node) for node in cluster.nodes]

    def _describe(self, node: Any) -> dict[str, Any]:
        host, _, port = node.endpoint.rpartition(":")
        board = (self.cluster.tensorboard_url(node.name) or "").rpartition(":")[2]
        return {
            "executor_id": node.index, "host": host, "job_name": node.job_name, "task_index": node.task_index, "port": int(port),
            "tb_pid": 0, "tb_port": int(board or 0), "addr": node.address, "authkey": self.cluster.keys, "node": node,
        }  # fmt: skip

    def train(self, dataRDD: Any, num_epochs: int = 0, feed_timeout: float = 600, qname: str = "input") -> None:
        """Feed every row to the nodes that train; returns when they have taken them, or called ``terminate()``.

        Parameters
        ----------
        dataRDD : RDD, DataFrame or DStream
            Of a DStream, each batch is fed when it comes; this returns at once.
        num_epochs : int
            0 for many: 10.
        feed_timeout : float
            Seconds without any movement after which the feed is given up.
        qname : str
            ``"input"``, or another name of ``run(queues=)``: then this returns at once, and the rows are fed when
            ``ctx.get_data_feed(qname_in=...)`` reads them (see :meth:`tfos_fast.Cluster.offer`); the queue ends with the shutdown.
        """
        self._check(qname)
        if num_epochs < 0:
            raise ValueError(f"num_epochs must be 0 (many) or more, not {num_epochs}")
        if qname != "input":
            self.cluster.offer(dataRDD, qname, epochs=num_epochs or MANY, together=TOGETHER, feed_timeout=feed_timeout)
        elif hasattr(dataRDD, "foreachRDD"):
            dataRDD.foreachRDD(lambda rdd: self._feed_stream(rdd, feed_timeout))
        else:
            self._feed(dataRDD, num_epochs or MANY, feed_timeout)

    def _feed(self, data: Any, epochs: int, feed_timeout: float) -> None:
        self.cluster.feed(data, epochs, feed_timeout=feed_timeout)
        if not self.cluster.takes_rows:
            self._over = self.server.done = True  # nobody takes rows any more: a stream ends

    def _feed_stream(self, rdd: Any, feed_timeout: float) -> None:
        if not self._over:  # what had come when a stop was requested is still fed
            self._feed(rdd, 1, feed_timeout)

    def inference(self, dataRDD: Any, feed_timeout: float = 600, qname: str = "input") -> Any:
        """An RDD of one result for each row, in order; evaluated when an action needs it.

        There is one way for rows that need results: ``ctx.get_data_feed(train_mode=False)`` reads it, under whatever name.
        """
        self._check(qname)
        return self.cluster.infer(dataRDD, feed_timeout=feed_timeout)

    def _check(self, qname: str) -> None:
        if self.input_mode is not InputMode.SPARK:
            raise ClusterError(
                "this cluster has InputMode.TENSORFLOW: map_fun reads for itself; to feed it, run(input_mode=InputMode.SPARK)"
            )
        if qname not in self.queues:
            raise ClusterError(
                f"this cluster has no queue {qname!r}, but {', '.join(self.queues)}: name it in TFCluster.run(queues=)"
            )

    def shutdown(self, ssc: Any = None, grace_secs: float = 0, timeout: float = 259200) -> None:
        """Wait until ``map_fun`` has returned at every node that trains, and stop all nodes.

        Parameters
        ----------
        ssc : StreamingContext, optional
            First wait for its end, or for a stop that was requested (``reservation.Client.request_stop``) or ``terminate()``.
        grace_secs : float
            Seconds more that the nodes are kept.
        timeout : float
            Seconds to wait for ``map_fun``; 0 or less for ever.

        Raises
        ------
        NodeFailed
            A ``map_fun`` raised after the feed; with its traceback.
        ClusterTimeout
        """
        try:
            if ssc is not None:
                while not ssc.awaitTerminationOrTimeout(1):
                    if self.server.done:
                        ssc.stop(stopSparkContext=False, stopGraceFully=True)
                        break
            self.cluster.shutdown(grace_secs, timeout if timeout > 0 else FOREVER)
        except BaseException:
            self.cluster.abort()
            raise
        finally:
            self.server.stop()

    def tensorboard_url(self) -> str | None:
        """Where TensorBoard is, or None."""
        url: str | None = self.cluster.tensorboard_url()
        return url


reserve = gone.function(
    "TFCluster.reserve(...) and cluster.start(map_fun, args)",
    "TFCluster.run(sc, map_fun, args, num_executors, num_ps, tensorboard, input_mode)",
)


def default_fs(sc: Any) -> str:
    """Hadoop's default file system, without a slash behind ``file://``."""
    engine_of(sc).check()
    root: str = sc._jsc.hadoopConfiguration().get("fs.defaultFS")
    return root[:-1] if root.startswith("file://") and root.endswith("/") and len(root) > 7 else root


def run(
    sc: Any,
    map_fun: Callable[[Any, Any], Any],
    tf_args: Any,
    num_executors: int,
    num_ps: int,
    tensorboard: bool = False,
    input_mode: int = InputMode.TENSORFLOW,
    log_dir: str | None = None,
    driver_ps_nodes: bool = False,
    master_node: str | None = None,
    reservation_timeout: float = 600,
    queues: Sequence[str] = QUEUES,
    eval_node: bool = False,
    release_port: bool = True,
) -> TFCluster:
    """Start ``map_fun(args, ctx)`` on so many nodes, of all roles.

    What has no parameter here is set by Spark's configuration: ``spark.tfos_fast.memory`` (shared memory of each node, 256m) and
    ``spark.tfos_fast.slotBytes``. All else as for :func:`tfos_fast.run`.
    """
    mode = InputMode(input_mode)
    num_gpus = getattr(tf_args, "num_gpus", None)
    conf = sc.getConf()
    memory = conf.get("spark.tfos_fast.memory", "256m")
    slot_bytes = conf.get("spark.tfos_fast.slotBytes", None)
    root, folder = default_fs(sc), os.getcwd()
    main = NodeMain(if_dropin(), map_fun, root, folder, tuple(queues), release_port)
    if mode is InputMode.TENSORFLOW:
        memory, slot_bytes = UNFED_MEMORY
    cluster = tfos_fast.reserve(
        sc, num_executors, num_ps=num_ps, driver_ps_nodes=driver_ps_nodes, master_node=master_node, eval_node=eval_node,
        release_port=release_port, memory=memory, slot_bytes=slot_bytes, num_gpus=num_gpus, reservation_timeout=reservation_timeout,
    )  # fmt: skip
    server = reservation.Server(num_executors)
    try:
        _check_gpus(cluster.nodes, num_gpus)
        cluster.start(main, tf_args, input_mode=mode, tensorboard=tensorboard, log_dir=log_dir)
        # A single TFOS_SERVER_PORT belongs to the cluster's own socket, which has it by now.
        ports = parse_ports(os.environ.get("TFOS_SERVER_PORT"), "TFOS_SERVER_PORT")
        address = server.start(any_port=len(ports) == 1, front=front(engine_of(sc), os.environ.get("TFOS_SERVER_HOST")))
        text = f"listening for reservations at {tuple(address)}"  # where stop_streaming.py HOST PORT is to go
        if log.isEnabledFor(logging.INFO):
            log.info(text)
        else:
            print(text, file=sys.stderr, flush=True)
    except BaseException:
        server.stop()
        cluster.abort()
        raise
    template: dict[str, list[int]] = {}
    for node in cluster.nodes:
        template.setdefault(node.job_name, []).append(node.index)
    meta = {
        "id": secrets.randbits(64), "cluster_template": template, "num_executors": num_executors, "default_fs": root,
        "working_dir": folder, "server_addr": address, "release_port": release_port,
    }  # fmt: skip
    try:
        return TFCluster(sc, cluster, meta, server, list(queues))
    except BaseException:
        server.stop()
        cluster.abort()
        raise


def _check_gpus(nodes: Sequence[Any], num_gpus: int | None) -> None:
    """Who asks for GPUs by ``args.num_gpus`` does not want to train without. A ps on the driver needs none."""
    if not num_gpus:
        return
    lacking = [f"{node.name} on {node.host} ({node.gpu_source})" for node in nodes if node.gpu_source and len(node.gpus) < num_gpus]
    if lacking:
        raise NotEnoughGpus(
            f"num_gpus={num_gpus} asks for GPUs, and there are none for {', '.join(lacking)}. Give Spark's executors GPUs "
            "(spark.executor.resource.gpu.amount), or set num_gpus to 0"
        )


__all__ = ["InputMode", "TFCluster", "run"]
