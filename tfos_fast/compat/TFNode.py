"""For ``map_fun``: the feed, paths, TensorFlow-1 servers and exports."""

from __future__ import annotations

import getpass
import logging
import os
from typing import Any

from tfos_fast.compat import gone
from tfos_fast.compat.datafeed import DataFeed
from tfos_fast.errors import MissingDependency, RoleError

log = logging.getLogger(__name__)


def hdfs_path(ctx: Any, path: str) -> str:
    """A path with its file system: as it is when it names one, else below ``ctx.defaultFS``.

    A relative path is below the user's folder on HDFS and below ``ctx.working_dir`` on a local file system.
    """
    if "://" in path or path.startswith("file:/"):
        return path
    root: str = ctx.defaultFS
    if path.startswith("/"):
        return root + path
    if root.startswith(("hdfs://", "viewfs://")):
        return f"{root}/user/{getpass.getuser()}/{path}"
    if root.startswith("file://"):
        return f"{root}/{ctx.working_dir.lstrip('/')}/{path}"
    log.warning("the relative path %s is taken to be below %s, a file system whose home folders are not known", path, root)
    return f"{root}/{path}"


def _v1() -> Any:
    try:
        import tensorflow.compat.v1 as v1
    except ImportError as error:
        raise MissingDependency(f"TensorFlow cannot be imported ({error}); install tfos-fast[tensorflow]") from error
    return v1


def start_cluster_server(ctx: Any, num_gpus: int = 1, rdma: bool = False) -> tuple[Any, Any]:
    """TensorFlow's server of this node.

    Parameters
    ----------
    ctx : TFNodeContext
    num_gpus : int
        0 hides all GPUs, as a ps has it in any case.
    rdma : bool
        Protocol ``grpc+verbs``, where TensorFlow was built with it.

    Returns
    -------
    tuple
        ``(tf.train.ClusterSpec, tf.distribute.Server)``.
    """
    if ctx.job_name not in ctx.cluster_spec:
        raise RoleError(f"{ctx.job_name}:{ctx.task_index} is not in the cluster_spec and has no server")
    if num_gpus <= 0 or ctx.job_name == "ps":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    v1 = _v1()
    cluster = v1.train.ClusterSpec(ctx.cluster_spec)
    protocol = "grpc+verbs" if rdma else "grpc"
    return cluster, v1.train.Server(cluster, job_name=ctx.job_name, task_index=ctx.task_index, protocol=protocol)


def export_saved_model(sess: Any, export_dir: str, tag_set: str, signatures: dict[str, Any]) -> None:
    """Write the session's graph and variables as a SavedModel.

    Parameters
    ----------
    sess : tf.compat.v1.Session or MonitoredSession
    export_dir : str
    tag_set : str
        Tags, separated by commas.
    signatures : dict
        Key -> ``{"inputs": {alias: tensor}, "outputs": {alias: tensor}, "method_name": name}``; without a name, the key.
    """
    saved = _v1().saved_model
    definitions = {}
    for key, signature in signatures.items():
        ends = [
            {alias: saved.build_tensor_info(tensor) for alias, tensor in signature[end].items()} for end in ("inputs", "outputs")
        ]
        definitions[key] = saved.build_signature_def(*ends, method_name=signature.get("method_name", key))
    if hasattr(sess, "run_step_fn"):  # a MonitoredSession, which a saver does not take: the session in it
        sess = sess.run_step_fn(lambda step_context: step_context.session)
    graph = sess.graph
    finalized = graph.finalized
    if finalized:
        graph._unsafe_unfinalize()  # MonitoredTrainingSession finalizes its graph, and the builder adds a saver
    try:
        builder = saved.Builder(export_dir)
        builder.add_meta_graph_and_variables(sess, tag_set.split(","), signature_def_map=definitions, clear_devices=True)
        builder.save()
    finally:
        if finalized:
            graph.finalize()


next_batch = gone.function("TFNode.next_batch(mgr, n)", "TFNode.DataFeed(mgr).next_batch(n)")
batch_results = gone.function("TFNode.batch_results(mgr, results)", "TFNode.DataFeed(mgr, False).batch_results(results)")
terminate = gone.function("TFNode.terminate(mgr)", "TFNode.DataFeed(mgr).terminate()")


def release_port(ctx: Any) -> None:
    """Give up the port of this node, just before a server binds it (for ``release_port=False``)."""
    if ctx.tmp_socket is None:
        log.warning("release_port: this node's port has been released before")
        return
    ctx.tmp_socket.close()
    ctx.tmp_socket = None


__all__ = ["DataFeed", "export_saved_model", "hdfs_path", "release_port", "start_cluster_server"]
