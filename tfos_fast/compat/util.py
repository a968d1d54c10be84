"""Odds and ends that scripts call."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from tfos_fast.compat import gpu_info
from tfos_fast.errors import ClusterError

log = logging.getLogger(__name__)

_EXECUTOR_ID = "executor_id"


def single_node_env(num_gpus: int = 1, worker_index: int = -1, nodes: Sequence[str] = ()) -> None:
    """Choose this process's GPUs for a TensorFlow of its own, by CUDA_VISIBLE_DEVICES; '' when there is none.

    Parameters
    ----------
    num_gpus : int
    worker_index : int
        Number of this node; -1: any GPUs.
    nodes : sequence of str
        Addresses of all nodes; with them the number counts among those of the same host.
    """
    if num_gpus > 0 and gpu_info.is_gpu_available():
        index = worker_index
        if worker_index >= 0 and nodes:
            host = nodes[worker_index].partition(":")[0]
            index = sum(node.partition(":")[0] == host for node in nodes[:worker_index])
        gpus = gpu_info.get_gpus(num_gpus, index)
        log.info("GPUs of this process: %s", gpus)
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus if isinstance(gpus, str) else ",".join(map(str, gpus))
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def get_ip_address() -> str:
    """The address of this host by which others reach it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("8.8.8.8", 80))  # sends nothing; the kernel chooses the interface
            address: str = probe.getsockname()[0]
            return address
        except OSError:  # no route to anywhere
            pass
    try:
        return socket.gethostbyname(socket.getfqdn())
    except OSError:
        return "127.0.0.1"


def find_in_path(path: str, file: str) -> str | bool:
    """The first file of that name in folders separated as in PATH, or False."""
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder, file)
        if os.path.isfile(candidate):
            return candidate
    return False


def write_executor_id(num: int) -> None:
    """Note a number in the working folder."""
    Path(_EXECUTOR_ID).write_text(str(num))


def read_executor_id() -> int:
    """The number that :func:`write_executor_id` noted in this folder."""
    try:
        return int(Path(_EXECUTOR_ID).read_text())
    except FileNotFoundError:
        raise ClusterError(
            f"{os.getcwd()} has no file {_EXECUTOR_ID!r}: nothing noted a number here. The nodes of a cluster need none: "
            "map_fun has ctx.executor_id"
        ) from None
