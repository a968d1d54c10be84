"""A program that is one script, as its user starts it: what TensorFlow wants to know of its source is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.spark.sparks import ROOT

SCRIPT = """
import os
from pyspark.sql import SparkSession
import tfos_fast

def main(args, ctx):
    import tensorflow as tf

    @tf.function
    def halved_or_doubled(x):
        if tf.reduce_mean(x) > 500.0:  # AutoGraph turns this into an operation, if it finds the source
            x = x / 2.0
        else:
            x = x * 2.0
        return tf.reduce_sum(x)

    total = 0.0
    for (x,) in ctx.get_data_feed().tensors(500, spec=("float32",)):
        total += float(halved_or_doubled(x))
    with open(args, "w") as out:
        out.write(str(total))

sc = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate().sparkContext
with tfos_fast.run(sc, main, "total", num_executors=1) as cluster:
    os.rename(__file__, "elsewhere.py")  # on another host there would be no such file
    cluster.feed(sc.parallelize([(float(i),) for i in range(1000)], 1))
"""


pytestmark = [pytest.mark.spark, pytest.mark.tensorflow, pytest.mark.timeout(120)]


def test_autograph_finds_the_source_of_a_main_in_a_script(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SCRIPT)
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable, "TF_CPP_MIN_LOG_LEVEL": "2"}
    environ.pop("SPARK_HOME", None)
    command, pipe = [sys.executable, "program.py"], subprocess.PIPE
    done = subprocess.run(command, cwd=tmp_path, env=environ, timeout=110, text=True, stdout=pipe, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    assert "could not transform" not in done.stdout
    assert float((tmp_path / "total").read_text()) == 2 * sum(range(500)) + sum(range(500, 1000)) / 2
