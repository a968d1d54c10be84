"""Leaving a cluster's ``with`` block after a Spark action of the user's own has failed: what the program prints."""

from __future__ import annotations

import traceback
from types import SimpleNamespace

import pytest

from tfos_fast.cluster.cluster import Cluster
from tfos_fast.cluster.coordinator import Coordinator
from tfos_fast.errors import SchemaMismatch

SENTENCE = "partition infer/0/1, row 0: the spec names 'lable'; did you mean 'label'?"


@pytest.fixture
def cluster():
    """One without nodes, and so without Spark."""
    coordinator = Coordinator("127.0.0.1", "127.0.0.1")
    return Cluster(SimpleNamespace(key=None), coordinator, (), None, log_level="WARNING", start_timeout=1.0)


def collect():
    """Fail as an action on an inference does."""
    frames = "".join(f"\tat org.apache.spark.Frame{i}\n" for i in range(100))
    raise RuntimeError(f"Job aborted: Traceback ...\ntfos_fast.errors.SchemaMismatch: {SENTENCE}\n\n{frames}")


def test_our_sentence_is_last_and_spark_keeps_its_own(cluster):
    with pytest.raises(SchemaMismatch) as caught, cluster:
        collect()
    assert "org.apache.spark.Frame99" in str(caught.value.spark_error)
    lines = "".join(traceback.format_exception(caught.value)).splitlines()
    assert lines[-1] == f"tfos_fast.errors.SchemaMismatch: {SENTENCE}"
    assert sum(SENTENCE in line for line in lines) == 1
    assert not any("org.apache" in line for line in lines)
    assert "    collect()" in lines  # the user's own line


def test_an_error_of_the_programs_own_stays_as_it_is(cluster):
    with pytest.raises(ZeroDivisionError) as caught, cluster:
        raise ZeroDivisionError
    assert caught.value.__cause__ is None
