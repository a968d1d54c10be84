"""GPUs that Spark knows of, by a discovery script, and GPUs that a stand-in nvidia-smi shows."""

from __future__ import annotations

import os

import pytest

import tfos_fast
from tests.spark import mains, sparks
from tests.spark.mains import noted
from tfos_fast.cluster import InputMode
from tfos_fast.errors import NotEnoughGpus

SMALL = {"memory": "1m", "input_mode": InputMode.TENSORFLOW}


def see(args, ctx):
    """Leave which GPUs TensorFlow would see."""
    mains.note(args["out"], ctx, [os.environ["CUDA_VISIBLE_DEVICES"], os.environ.get("CUDA_DEVICE_ORDER")])


def seen(sc, out, nodes, **settings):
    with tfos_fast.run(sc, see, {"out": out}, nodes, **SMALL, **settings):
        pass
    return [noted(out)[i] for i in range(nodes)]


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.long
@pytest.mark.timeout(120)
def test_gpus_that_spark_gives(nothing_left, tmp_path, out):
    """Two executors of two cores and two GPUs each, on a Worker with four GPUs."""
    discovery = script(tmp_path / "discover", """echo '{"name": "gpu", "addresses": ["4", "5", "6", "7"]}'""")
    worker = {"spark.worker.resource.gpu.amount": "4", "spark.worker.resource.gpu.discoveryScript": discovery}
    application = {
        "spark.cores.max": "4",
        "spark.executor.cores": "2",
        "spark.executor.resource.gpu.amount": "2",
        "spark.task.resource.gpu.amount": "1",
    }
    with sparks.standalone(workers=1, cores=4, settings=worker) as master, sparks.spark(master, **application) as sc:
        first, second = seen(sc, out, 2)
        assert sorted(first[0].split(",") + second[0].split(",")) == ["4", "5", "6", "7"]
        assert len(first[0].split(",")) == 2
        assert first[1] == "PCI_BUS_ID"
        fewer = seen(sc, out, 2, num_gpus=1)
        assert len({gpus for gpus, _ in fewer}) == 2
        assert {gpus for gpus, _ in fewer} < set("4567")
        # Four nodes on two executors: each task has one GPU.
        assert sorted(gpus for gpus, _ in seen(sc, out, 4)) == ["4", "5", "6", "7"]
        with pytest.raises(NotEnoughGpus, match=r"worker:0 was to have 3 GPUs, and Spark gave it 2"):
            tfos_fast.reserve(sc, 2, memory="1m", num_gpus=3)


@pytest.mark.long
@pytest.mark.timeout(120)
def test_gpus_that_nvidia_smi_shows(nothing_left, tmp_path, out, monkeypatch):
    script(tmp_path / "nvidia-smi", "echo 0; echo 1; echo 2; echo 3")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with sparks.spark("local-cluster[2,1,1024]") as sc:
        assert [gpus for gpus, _ in seen(sc, out, 2)] == ["0,1", "2,3"]
        assert [gpus for gpus, _ in seen(sc, out, 2, num_gpus=1)] == ["0", "1"]
        with pytest.raises(NotEnoughGpus, match=r"nvidia-smi shows 4 there"):
            tfos_fast.reserve(sc, 2, memory="1m", num_gpus=3)
        sc.environment["SPARK_EXECUTOR_POD_IP"] = "10.0.0.7"
        assert seen(sc, out, 2) == [["", None]] * 2
