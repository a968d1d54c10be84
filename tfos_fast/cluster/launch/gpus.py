"""Which GPUs a node's trainer sees.

What Spark gave to the reserving task comes first. Otherwise the node's executor says what its host has, and the nodes of a host
divide that among themselves, in the order of their numbers.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfos_fast.errors import NotEnoughGpus

SPARK, ENVIRONMENT, POD, NVIDIA_SMI = "Spark", "CUDA_VISIBLE_DEVICES", "pod", "nvidia-smi"
_QUERY = ("--query-gpu=index", "--format=csv,noheader")
_PATIENCE = 20.0  # seconds; without its persistence daemon the driver is loaded anew for each call


@dataclass(frozen=True)
class Found:
    """What one node found: GPUs as CUDA_VISIBLE_DEVICES names them, and who said so."""

    node: str
    machine: str
    gpus: tuple[str, ...]
    source: str


def look(given: Sequence[str] | None, environ: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """The GPUs that this executor may use, and who says so.

    Parameters
    ----------
    given : sequence of str, optional
        Addresses of Spark's resource ``gpu`` that this task has; None when the application has no such resource.
    environ : mapping
        Of the executor.
    """
    if given is not None:
        return tuple(given), SPARK
    if ENVIRONMENT in environ:
        names = [name.strip() for name in environ[ENVIRONMENT].split(",")]
        stop = next((i for i, name in enumerate(names) if name in ("", "-1", "NoDevFiles")), len(names))  # as CUDA reads it
        return tuple(names[:stop]), ENVIRONMENT
    if "SPARK_EXECUTOR_POD_IP" in environ:
        return (), POD  # the host's GPUs are not the pod's: those it has would be resources of Spark
    return _of_host(environ)


def _of_host(environ: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if program is None:
        return (), NVIDIA_SMI
    try:
        answer = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=_PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return (), f"{NVIDIA_SMI} failed: {error}"
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip().isdigit()), NVIDIA_SMI


def assign(found: Sequence[Found], num_gpus: int | None) -> dict[str, tuple[str, ...]]:
    """Name of each node -> its GPUs.

    Parameters
    ----------
    found : sequence of Found
        In the order of the nodes' numbers.
    num_gpus : int, optional
        As many for each node and no more. Default: all that Spark gave to it, or an equal share of its host's. Where there are no
        GPUs at all, nodes have none.

    Raises
    ------
    NotEnoughGpus
        There are some, but not so many.
    """
    result: dict[str, tuple[str, ...]] = {}
    hosts: dict[str, list[Found]] = {}
    for node in found:
        if node.source == SPARK:
            result[node.node] = _limited(node, num_gpus)
        else:
            hosts.setdefault(node.machine, []).append(node)
    for peers in hosts.values():
        gpus = peers[0].gpus
        if num_gpus is not None and gpus and num_gpus * len(peers) > len(gpus):
            names = ", ".join(peer.node for peer in peers)
            raise NotEnoughGpus(
                f"{names} are on one host and were to have {num_gpus} GPUs each, but {peers[0].source} shows {len(gpus)} there "
                f"({', '.join(gpus)}); lower num_gpus, or put fewer nodes on the host"
            )
        each, more = (num_gpus, 0) if num_gpus is not None else divmod(len(gpus), len(peers))
        begin = 0
        for number, peer in enumerate(peers):
            end = begin + each + (number < more)
            result[peer.node], begin = gpus[begin:end], end
    return result


def _limited(node: Found, num_gpus: int | None) -> tuple[str, ...]:
    if num_gpus is not None and num_gpus > len(node.gpus):
        raise NotEnoughGpus(
            f"{node.node} was to have {num_gpus} GPUs, and Spark gave it {len(node.gpus)} ({', '.join(node.gpus)}); lower "
            "num_gpus, or raise spark.executor.resource.gpu.amount"
        )
    return node.gpus[:num_gpus]


def environment(gpus: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """What the trainer's environment says of its GPUs."""
    said = {ENVIRONMENT: ",".join(gpus)}
    if gpus and all(gpu.isdigit() for gpu in gpus) and "CUDA_DEVICE_ORDER" not in environ:
        said["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # nvidia-smi counts so; CUDA would begin with the fastest
    return said
