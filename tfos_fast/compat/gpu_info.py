"""GPUs of this host by nvidia-smi. ``util`` and ``TFSparkNode`` look these up at each call, so a test can patch them."""

from __future__ import annotations

import random
import shutil
import subprocess

from tfos_fast.errors import ClusterError

AS_STRING = "string"
AS_LIST = "list"
_PATIENCE = 20.0  # seconds; without its persistence daemon the driver is loaded anew for each call


def _ask(*options: str) -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        raise ClusterError("this host has no nvidia-smi, so no GPUs can be found; num_gpus=0 asks for none")
    try:
        answer = subprocess.run([program, *options], capture_output=True, text=True, timeout=_PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ClusterError(f"nvidia-smi failed, so no GPUs can be found: {error}") from error
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def is_gpu_available() -> bool:
    """Whether nvidia-smi shows a GPU."""
    try:
        return bool(_ask("--list-gpus"))
    except ClusterError:
        return False


def get_gpus(num_gpu: int = 1, worker_index: int = -1, format: str = AS_STRING) -> str | list[str]:
    """Numbers of GPUs that no process computes on.

    Parameters
    ----------
    num_gpu : int
    worker_index : int
        Number of this process among those of its host, which share its GPUs in order; -1: any.
    format : {AS_STRING, AS_LIST}
        ``"0,1"`` or ``["0", "1"]``.

    Raises
    ------
    ClusterError
        There are fewer, or no nvidia-smi.
    """
    if format not in (AS_STRING, AS_LIST):
        raise ValueError(f"format is gpu_info.AS_STRING or gpu_info.AS_LIST, not {format!r}")
    known = [tuple(part.strip() for part in line.split(",")) for line in _ask("--query-gpu=index,uuid", "--format=csv,noheader")]
    busy = set(_ask("--query-compute-apps=gpu_uuid", "--format=csv,noheader"))
    free = [index for index, uuid in known if uuid not in busy]
    if len(free) < num_gpu:
        raise ClusterError(f"{num_gpu} GPUs are needed; this host has {len(known)}, of which {len(free)} are free; lower num_gpus")
    if worker_index < 0:
        chosen = sorted(random.sample(free, num_gpu))
    else:
        groups = max(len(free) // num_gpu, 1) if num_gpu else 1
        begin = worker_index % groups * num_gpu
        chosen = free[begin : begin + num_gpu]
    return ",".join(chosen) if format == AS_STRING else chosen
