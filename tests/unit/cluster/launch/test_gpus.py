"""Who gets which GPUs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfos_fast.cluster.launch import gpus
from tfos_fast.cluster.launch.gpus import Found, assign, environment, look
from tfos_fast.errors import NotEnoughGpus


@pytest.fixture
def host(tmp_path):
    """The environment of a host with four GPUs, as its stand-in nvidia-smi says."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 0\necho 1\necho 2\necho 3\n")
    program.chmod(0o755)
    return {"PATH": str(tmp_path)}


def test_spark_comes_first_then_the_environment_then_the_host(host):
    pod = {"SPARK_EXECUTOR_POD_IP": "10.0.0.1"}
    assert look(["2", "3"], host | pod | {"CUDA_VISIBLE_DEVICES": "7"}) == (("2", "3"), "Spark")
    assert look([], host) == ((), "Spark")
    assert look(None, host | {"CUDA_VISIBLE_DEVICES": "7, GPU-a,-1,5"}) == (("7", "GPU-a"), "CUDA_VISIBLE_DEVICES")
    assert look(None, host | {"CUDA_VISIBLE_DEVICES": ""}) == ((), "CUDA_VISIBLE_DEVICES")
    assert look(None, host | pod) == ((), "pod")
    assert look(None, host) == (("0", "1", "2", "3"), "nvidia-smi")
    assert look(None, {"PATH": "/nowhere"}) == ((), "nvidia-smi")


def test_an_nvidia_smi_that_fails_is_told(tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    none, source = look(None, {"PATH": str(tmp_path)})
    assert none == ()
    assert "nvidia-smi failed" in source
    assert "9" in source


def on_host(nodes, count, source="nvidia-smi", machine="m"):
    return [Found(f"worker:{i}", machine, tuple(map(str, range(count))), source) for i in range(nodes)]


@pytest.mark.parametrize(
    ("nodes", "count", "num_gpus", "parts"),
    [
        (2, 4, None, ["01", "23"]),
        (3, 4, None, ["01", "2", "3"]),
        (2, 1, None, ["0", ""]),
        (2, 4, 1, ["0", "1"]),
        (2, 4, 0, ["", ""]),
        (2, 0, None, ["", ""]),
        (2, 0, 1, ["", ""]),
    ],
)
def test_nodes_of_a_host_divide_its_gpus_by_their_number(nodes, count, num_gpus, parts):
    assert ["".join(part) for part in assign(on_host(nodes, count), num_gpus).values()] == parts


def test_what_spark_gave_is_not_divided_again():
    found = [Found("worker:0", "m", ("3", "1"), gpus.SPARK), Found("worker:1", "m", ("0", "2"), gpus.SPARK)]
    assert assign(found, None) == {"worker:0": ("3", "1"), "worker:1": ("0", "2")}
    assert assign(found, 1) == {"worker:0": ("3",), "worker:1": ("0",)}
    with pytest.raises(
        NotEnoughGpus, match=r"worker:0 was to have 3 GPUs, and Spark gave it 2 \(3, 1\).*spark\.executor\.resource\.gpu"
    ):
        assign(found, 3)


def test_too_few_on_a_host():
    with pytest.raises(
        NotEnoughGpus, match=r"worker:0, worker:1 are on one host .*2 GPUs each, but nvidia-smi shows 3 there .*num_gpus"
    ):
        assign(on_host(2, 3), 2)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["nvidia-smi", "Spark"]))), st.integers(0, 9))
def test_no_gpu_of_a_host_is_given_twice_and_none_is_left(nodes, count):
    found = [Found(f"worker:{i}", machine, tuple(map(str, range(count))), source) for i, (machine, source) in enumerate(nodes)]
    result = assign(found, None)
    assert list(sorted(result)) == sorted(node.node for node in found)
    for machine in "abc":
        here = [gpu for node in found if node.machine == machine and node.source != "Spark" for gpu in result[node.node]]
        assert here == (list(map(str, range(count))) if here or count == 0 else [])
        assert here or count == 0 or not [node for node in found if node.machine == machine and node.source != "Spark"]


def test_the_trainers_environment():
    assert environment(("1", "2"), {}) == {"CUDA_VISIBLE_DEVICES": "1,2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert environment(("1",), {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert environment(("GPU-a",), {}) == {"CUDA_VISIBLE_DEVICES": "GPU-a"}
    assert environment((), {}) == {"CUDA_VISIBLE_DEVICES": ""}
