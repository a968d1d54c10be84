"""Roles, their cluster_spec and TF_CONFIG as TensorFlow checks them, and ports that are held."""

from __future__ import annotations

import json
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfos_fast.cluster.host.ports import HeldPort, parse_ports
from tfos_fast.cluster.protocol.roles import assign, cluster_spec, tf_config
from tfos_fast.cluster.spark.placement import spreading_profile, why_uneven
from tfos_fast.cluster.spark.task_slots import TaskSlots
from tfos_fast.cluster.trainer.context import Context
from tfos_fast.errors import FormError, PortUnavailable, RoleError, UnevenExecutors


def names(*args, **kwargs):
    return [role.name for role in assign(*args, **kwargs)]


def test_order_of_roles():
    assert names(2) == ["worker:0", "worker:1"]
    assert names(1, master_node="chief") == ["chief:0"]
    assert names(6, 2, "chief", True) == ["ps:0", "ps:1", "chief:0", "evaluator:0", "worker:0", "worker:1"]
    assert [role.executor_id for role in assign(4, 1, "master")] == [0, 1, 2, 3]
    assert [role.name for role in assign(6, 2, "chief", True) if role.fed] == ["chief:0", "worker:0", "worker:1"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((0,), "num_executors must be 1 or more"),
        ((2, -1), "num_ps must be 0 or more"),
        ((2, 2), "need 3 at least"),
        ((2, 1, "chief", True), "need 3 at least"),
        ((2, 0, "boss"), "'chief' .* or 'master' .*, not 'boss'"),
    ],
)
def test_roles_that_do_not_add_up(args, words):
    with pytest.raises(RoleError, match=words):
        assign(*args)


@pytest.mark.tensorflow
@settings(deadline=None)  # the first example imports TensorFlow
@given(st.integers(1, 5), st.integers(0, 2), st.sampled_from([None, "chief"]), st.booleans())
def test_tensorflow_takes_every_tf_config(workers, ps, chief, evaluator):
    from tensorflow.python.distribute import multi_worker_util

    roles = assign(workers + ps + (chief is not None) + evaluator, ps, chief, evaluator)
    spec = cluster_spec((role.job_name, f"host:{role.executor_id}") for role in roles)
    assert "evaluator" not in spec
    assert sum(map(len, spec.values())) == len(roles) - evaluator
    for role in roles:
        config = json.loads(tf_config(spec, role.job_name, role.task_index))
        task = config["task"]
        multi_worker_util._validate_cluster_spec(
            multi_worker_util.normalize_cluster_spec(config["cluster"]), task["type"], task["index"]
        )
        if role.job_name != "evaluator":
            assert config["cluster"][task["type"]][task["index"]] == f"host:{role.executor_id}"


@pytest.mark.parametrize(
    ("text", "ports"), [(None, (0,)), ("", (0,)), (0, (0,)), (9997, range(9997, 9998)), (" 9997 - 9999", range(9997, 10000))]
)
def test_ports(text, ports):
    assert parse_ports(text, "it") == ports


@pytest.mark.parametrize("text", ["a", "9999-9997", "70000", "1-2-3", "-5"])
def test_no_ports(text):
    with pytest.raises(ValueError, match=r"it is a port \(9997\) or a range"):
        parse_ports(text, "it")


def bind(port, *, reuse=False):
    with socket.socket() as other:
        if reuse:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("", port))  # as TensorFlow's server does, at all addresses
        other.listen()


def test_a_held_port_is_for_nobody_then_for_tensorflow_then_for_all():
    held = HeldPort("127.0.0.1")
    for reuse in (False, True):
        with pytest.raises(OSError, match="in use"):
            bind(held.port, reuse=reuse)
    held.share()
    with pytest.raises(OSError, match="in use"):
        bind(held.port)
    bind(held.port, reuse=True)
    held.close()
    bind(held.port, reuse=True)


def test_the_first_free_port_of_a_range():
    first = HeldPort("127.0.0.1")
    pair = range(first.port, first.port + 2)
    second = HeldPort("127.0.0.1", pair)
    assert second.port == first.port + 1
    with pytest.raises(PortUnavailable, match=rf"ports {pair[0]} to {pair[1]} are all taken .*\(the setting\)"):
        HeldPort("127.0.0.1", pair, "the setting")
    with pytest.raises(PortUnavailable, match=f"port {first.port} is taken"):
        HeldPort("127.0.0.1", (first.port,))
    first.close()
    second.close()


def test_executors_that_differ_are_refused():
    with pytest.raises(UnevenExecutors, match=r"between 2 and 4 cores.*spark\.executor\.cores to 2"):
        spreading_profile(None, TaskSlots(6, (2, 4), False), 2)
    assert spreading_profile(None, TaskSlots(6, (2, 4), False), 3) is None  # nodes share executors anyway
    for slots, nodes in ((TaskSlots(6, (2, 4), False), 3), (TaskSlots(6, (2, 4), False), 1), (TaskSlots(6, (6,), True), 2)):
        assert why_uneven(slots, nodes) == ""


def test_the_name_of_a_feed_is_a_keyword():
    context = Context("worker", 0, 0, {"worker": ["a:1"]})
    with pytest.raises(FormError, match=r"get_data_feed\(name='validation'\)"):
        context.get_data_feed("validation")  # the default feed was given: any text is true
