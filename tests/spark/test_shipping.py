"""Standalone executors whose Python has pyspark and TensorFlow, but not us."""

from __future__ import annotations

import sys
from contextlib import contextmanager

import cloudpickle
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark.cloudpickle
import pytest
from pyspark.sql import SparkSession

import tfos_fast
from tests.spark import mains, sparks
from tests.spark.bare import bare_python
from tests.spark.mains import noted

SMALL = {"memory": "8m"}


def whats_there(names):
    """In a plain task: where modules come from, None for those that cannot be imported."""
    import importlib

    found = {}
    for name in names:
        try:
            found[name] = importlib.import_module(name).__file__
        except ImportError:
            found[name] = None
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return bare_python(tmp_path_factory.mktemp("bare") / "venv")


@pytest.fixture(scope="module", autouse=True)
def programs_by_value():
    """The executors do not have the tests' modules."""
    here = [mains, sys.modules[__name__]]
    for pickler in (cloudpickle, pyspark.cloudpickle):
        for module in here:
            pickler.register_pickle_by_value(module)
    yield
    for pickler in (cloudpickle, pyspark.cloudpickle):
        for module in here:
            pickler.unregister_pickle_by_value(module)


@pytest.fixture(scope="module")
def master(nothing_left):
    with sparks.standalone(workers=1, cores=4, module_path="") as address:
        yield address


@contextmanager
def application(master, python, **settings):
    shape = {"spark.cores.max": "4", "spark.executor.cores": "2", "spark.executorEnv.PYTHONPATH": ""}
    with sparks.spark(master, **(shape | settings)) as sc:
        sc.pythonExec = str(python)  # what PYSPARK_PYTHON said when the context was made
        yield sc


def read_with_tensorflow(args, ctx):
    """Sum the default feed up as tensors."""
    import tensorflow as tf

    total = 0.0
    for batch in ctx.get_data_feed().tensors(8):
        total += float(tf.reduce_sum(batch))
    mains.note(args["out"], ctx, total, "sum")


def say_where(args, ctx):
    """Read all, and leave where this package was found."""
    import tfos_fast

    feed = ctx.get_data_feed()
    while not feed.should_stop():
        feed.next_batch(10)
    mains.note(args["out"], ctx, [tfos_fast.__file__, tfos_fast.__version__])


def read_both(args, ctx):
    """Read the named feed, then the default one."""
    named = 0
    for _ in range(2):
        named += len(next(ctx.get_data_feed(name="validation").batches(10))["c0"])
    feed = ctx.get_data_feed()
    while not feed.should_stop():
        feed.next_batch(10)
    mains.note(args["out"], ctx, named, "named")


OURS = ("tfos_fast", "zmq", "msgspec", "psutil")


@pytest.mark.timeout(180)
def test_executors_get_what_they_lack(master, bare, out):
    with application(master, bare) as sc:
        before = sc.parallelize([0], 1).map(lambda _: whats_there(OURS)).first()
        assert before == dict.fromkeys(OURS)
        with tfos_fast.run(sc, mains.square, {}, 2, **SMALL) as cluster:
            assert cluster.infer(sc.parallelize(range(50), 3)).collect() == [i * i for i in range(50)]
            after = sc.parallelize([0], 1).map(lambda _: whats_there(OURS)).first()
        assert all("/app-" in path for path in after.values()), after
        with tfos_fast.run(sc, mains.collect, {"out": out}, 2, **SMALL) as cluster:
            assert cluster.feed(sc.parallelize(range(100), 4).map(lambda x: (x, "mapped"))).rows == 100
        assert sum(len(rows) for rows in noted(out).values()) == 100


@pytest.mark.long
@pytest.mark.timeout(180)
def test_every_way_of_feeding_with_what_was_sent(master, bare, tmp_path, out):
    files = str(tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"x": list(range(200))}), files)
    with application(master, bare) as sc:
        with tfos_fast.run(sc, mains.collect, {"out": out}, 2, **SMALL) as cluster:
            frame = SparkSession(sc).range(100, numPartitions=2)
            assert cluster.feed(sc.parallelize(range(100), 4).map(lambda x: (x, "mapped")), epochs=2).rows == 200
            assert cluster.feed(sc.parallelize([(x, "stored") for x in range(100)], 4)).rows == 100
            assert cluster.feed(frame).rows == 100
            assert cluster.feed(tfos_fast.parquet(files)).rows == 200
        assert sum(len(rows) for rows in noted(out).values()) == 600
        with tfos_fast.run(sc, read_both, {"out": out}, 2, **SMALL) as cluster:
            cluster.offer(sc.parallelize(range(1000), 2), name="validation")
            cluster.feed(sc.parallelize(range(100), 2))
        assert noted(out, "named") == {0: 20, 1: 20}
        with tfos_fast.run(sc, read_with_tensorflow, {"out": out}, 1, **SMALL) as cluster:
            cluster.feed(sc.parallelize([float(x) for x in range(100)], 4))
        assert noted(out, "sum") == {0: 4950}


@pytest.mark.long
@pytest.mark.timeout(120)
def test_another_version_makes_way(master, tmp_path, out):
    (tmp_path / "tfos_fast").mkdir()
    (tmp_path / "tfos_fast" / "__init__.py").write_text('__version__ = "0.0.9"\n')
    with application(master, sys.executable, **{"spark.executorEnv.PYTHONPATH": str(tmp_path)}) as sc:
        before = sc.parallelize([0] * 8, 8).map(lambda _: whats_there(("tfos_fast",))["tfos_fast"]).collect()
        assert set(before) == {str(tmp_path / "tfos_fast" / "__init__.py")}
        with tfos_fast.run(sc, say_where, {"out": out}, 2, **SMALL) as cluster:
            assert cluster.feed(sc.parallelize(range(100), 4)).rows == 100
    assert len(noted(out)) == 2
    assert all("/app-" in where and version == tfos_fast.__version__ for where, version in noted(out).values())
