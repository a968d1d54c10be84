"""What Spark's settings say about the slots that an application can have."""

from __future__ import annotations

import pytest

from tfos_fast.cluster.spark.placement import most_slots, setting_for_slots


@pytest.mark.parametrize(
    ("master", "settings", "most"),
    [
        ("local", {}, 1),
        ("local[4]", {}, 4),
        ("local[4, 2]", {}, 4),
        ("local[*]", {}, None),
        ("local[4]", {"spark.task.cpus": "2"}, 2),
        ("local-cluster[2,1,1024]", {}, 2),
        ("local-cluster[ 2 , 5 , 1024 ]", {"spark.task.cpus": "2"}, 4),
        ("spark://host:7077", {}, None),
        ("spark://host:7077", {"spark.cores.max": "6"}, 6),
        ("spark://host:7077", {"spark.cores.max": "7", "spark.task.cpus": "2"}, 3),
        ("yarn", {"spark.executor.instances": "3"}, None),
        ("yarn", {"spark.executor.instances": "3", "spark.executor.cores": "4"}, 12),
        ("k8s://x", {"spark.executor.instances": "3", "spark.executor.cores": "3", "spark.task.cpus": "2"}, 3),
        (
            "spark://host:7077",
            {"spark.cores.max": "4", "spark.executor.instances": "3", "spark.executor.cores": "4"},
            4,
        ),
    ],
)
def test_most_slots(master, settings, most):
    assert most_slots(master, settings) == most


@pytest.mark.parametrize(
    ("master", "setting"),
    [
        ("local[2]", "local[number of slots]"),
        ("local-cluster[2,1,1024]", "local-cluster[executors"),
        ("spark://h:1", "spark.cores.max"),
        ("yarn", "spark.executor.instances"),
    ],
)
def test_the_setting_to_change_is_named(master, setting):
    assert setting in setting_for_slots(master)
