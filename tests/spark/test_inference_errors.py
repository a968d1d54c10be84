"""What a program prints whose inference fails: Spark tries no task again for an error that another try would meet, too."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.spark import sparks
from tfos_fast import errors
from tfos_fast.cluster.protocol.failures import job_exception

PROGRAM = """
import sys, traceback
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession
import tfos_fast

def read(args, ctx):
    feed = ctx.get_data_feed(train_mode=False)
    for batch in feed.batches(64, **args):
        feed.batch_results(batch["y"])

def die(args, ctx):
    ctx.get_data_feed(train_mode=False).next_batch(3)
    raise ArithmeticError("the model has no weights")

def words(args, ctx):
    feed = ctx.get_data_feed(train_mode=False)
    while not feed.should_stop():
        feed.batch_results(["x"] * len(feed.next_batch(64)))

def leave(args, ctx):
    feed = ctx.get_data_feed(train_mode=False)
    feed.batch_results(feed.next_batch(3))

def fail(args, ctx):
    ctx.get_data_feed().next_batch(3)
    raise ArithmeticError("the model has no layers")

conf = SparkConf().setMaster(sys.argv[1]).set("spark.ui.enabled", "false").set("spark.ui.showConsoleProgress", "false")
conf.set("spark.executor.memory", "512m").set("spark.driver.host", "127.0.0.1").set("spark.driver.bindAddress", "127.0.0.1")
sc = SparkContext(conf=conf)
spark = SparkSession(sc)
frame = spark.range(1000, numPartitions=4).selectExpr("id y")
rdd = sc.parallelize(range(1000), 4).map(lambda i: {"y": i if i != 700 else "x"})
spec = {"spec": {"y": "int32"}}
for name, main, args, evaluate in (
    ("row", read, spec, lambda cluster: cluster.infer(rdd).count()),
    ("typo", read, {"spec": {"yy": "int32"}}, lambda cluster: cluster.infer(frame, schema="y int").collect()),
    ("result", words, None, lambda cluster: cluster.infer(frame, schema="y int").collect()),
    ("learned", read, {"spec": {"yy": "int32"}}, lambda cluster: cluster.infer(frame)),
    ("died", die, None, lambda cluster: cluster.infer(rdd).collect()),
    ("left", leave, None, lambda cluster: cluster.infer(rdd).collect()),
    ("fed", fail, None, lambda cluster: cluster.feed(rdd)),
):
    if name not in sys.argv[2:]:
        continue
    cluster = tfos_fast.run(sc, main, args, 2, memory="4m")
    try:
        evaluate(cluster)
    except Exception as error:
        print(f"<<{name}>>", type(error).__name__, error, "<<end>>", flush=True)
    finally:
        cluster.abort()
"""

FOUND = {
    "row": r"tfos_fast.errors.SchemaMismatch: partition infer/\d+/2, row \d+: column 'y': the spec says int32",
    "typo": r"tfos_fast.errors.SchemaMismatch: .*did you mean 'y'",
    "result": r"tfos_fast.errors.SchemaMismatch: column 'y' of the results, declared as int32: 'x' is of type str",
    "learned": r"SchemaMismatch .*did you mean 'y'",
    "died": r"tfos_fast.errors.NodeFailed: worker:\d on \S+ main raised ArithmeticError: the model has no weights",
    "fed": r"NodeFailed worker:\d on \S+ main raised ArithmeticError: the model has no layers",
    "left": r"tfos_fast.errors.(ChannelClosed: the reader ended before every row of partition infer/\d+/\d |ClusterError: no node)",
}


@pytest.mark.timeout(280)
@pytest.mark.parametrize(("master", "names"), [("local[2]", list(FOUND)), ("local-cluster[2,1,1024]", ["row", "died"])])
def test_actions_fail_at_the_first_try_and_in_one_sentence(tmp_path, master, names):
    (tmp_path / "program.py").write_text(PROGRAM)
    env = dict(os.environ, PYTHONPATH=str(sparks.ROOT), PYSPARK_PYTHON=sys.executable)
    env["SPARK_HOME"] = str(sparks.make_spark_home(tmp_path / "home"))
    command = [sys.executable, "program.py", master, *names]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
    told = dict(re.findall(r"<<(\w+)>> (.*?) <<end>>", done.stdout, re.DOTALL))
    for name in names:
        found = FOUND[name]
        assert re.search(found, told[name]), (name, told[name], done.stderr[-3000:])
        assert len(re.findall(found, told[name])) == 1
        if name not in ("learned", "fed"):  # the jobs of these are ours, and so are the errors
            ours = job_exception(Exception(told[name]))
            assert isinstance(ours, errors.TfosError)
            assert "SQLSTATE" not in str(ours)
            assert "SPARK_JOB_CANCELLED" in told[name]
    printed = done.stderr
    assert "PythonException" not in printed  # no try failed, so none was logged
    assert "failed 4 times" not in printed
    for line in printed.splitlines():
        assert not re.search(r"Lost task [\d.]+\.[1-9] in", line)  # second tries
