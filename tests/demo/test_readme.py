"""The programs in the README and in docs/ run: whole programs as they stand, parts of a program inside a program of the test."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def programs() -> dict[str, str]:
    """Return each program by its page and its number there."""
    return {
        f"{page.stem}-{number}": textwrap.dedent(block[2])
        for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
        for number, block in enumerate(BLOCK.finditer(page.read_text()))
    }


PROGRAMS = programs()
WHOLE = {
    "README-0": r"worker:[01] found w = 3\.000",
    "README-1": r"worker:[01] has w = 3\.000.*worker:[01] has w = 3\.000",
    "dataframes-0": r"30000 rows in .*\+---(.|\n)*\|  2\|",
    "restarts-0": r"life 1 began with 1 epochs done.*worker:0: exit status 0.*started again 1 time: .*signal 9 \(SIGKILL\)",
    "without-spark-0": r"\[1\. 2\.\] \['a' 'b'\]",
}

DRIVER = """
from pyspark.sql import SparkSession
import tfos_fast

{program}

args = {{"epochs": 2}}
sc = SparkSession.builder.master("local[3]").getOrCreate().sparkContext
rdd = sc.parallelize([{row} for i in range(2000)], 4)
{run}
with cluster:
    {use}
"""
FEED = "print(cluster.feed(rdd, epochs=2))"
COLUMNS = '{"image": [[0.5] * 28] * 28, "label": i, "tokens": [i] * (i % 3), "pairs": [[1.0, 2.0]] * (i % 3), "title": "t"}'
NULLS = '{"age": i if i % 2 else None, "name": "a" if i % 3 else None, "x": 0.5 if i % 5 else None}'
VECTORS, NUMBERS = "([i / 2e3, 1.0], i / 1e3)", "(i / 2e3, i / 1e3)"
TWO_NODES = "cluster = tfos_fast.run(sc, train, args, num_executors=2)"
WITH_PS = "cluster = tfos_fast.run(sc, train, args, num_executors=3, num_ps=1)"
LOOP = """
def train(args, ctx):
    import os

    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf
    from tfos_fast.distributed import distribute

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = tf.keras.Sequential([tf.keras.layers.Input((2,)), tf.keras.layers.Dense(1)])
        optimizer = tf.keras.optimizers.SGD(0.1)
    rows = distribute(strategy, ctx.get_data_feed(), 64, (("float32", (2,)), ("float32", ())))
{loop}
    print("steps:", int(optimizer.iterations) > 30)
"""
DECLARATION = """
def train(args, ctx):
    import tensorflow as tf

    feed = ctx.get_data_feed()
{loop}
    for batch in batches:
        pass
    print(*sorted(batch))
"""
PREDICTION = """
def train(args, ctx):
    predict = sum
    feed = ctx.get_data_feed(train_mode=False)
{loop}
"""


def within(main: str, text: str) -> str:
    return main.format(loop=textwrap.indent(text, "    "))


FIRST, SECOND = PROGRAMS["types-1"].splitlines()

# The program, the rows, the call that makes the cluster, its use, what the output has.
PARTS = {
    "distributed-0": (PROGRAMS["distributed-0"], VECTORS, TWO_NODES, FEED, r"4000 rows in"),
    "distributed-1": (within(LOOP, PROGRAMS["distributed-1"]), VECTORS, TWO_NODES, FEED, r"steps: True.*steps: True"),
    "distributed-3": (PROGRAMS["distributed-3"], NUMBERS, PROGRAMS["distributed-2"], FEED, r"4000 rows in"),
    "distributed-4": (PROGRAMS["distributed-4"], NUMBERS, WITH_PS, FEED, r"4000 rows in"),
    "feeding-0": (within(PREDICTION, PROGRAMS["feeding-0"]), NUMBERS, TWO_NODES, "print(cluster.infer(rdd).count())", r"^2000$"),
    "types-0": (within(DECLARATION, "batches = " + PROGRAMS["types-0"]), COLUMNS, TWO_NODES, FEED, r"^image label pairs"),
    "types-1": (within(DECLARATION, "batches = " + FIRST), NULLS, TWO_NODES, FEED, r"^age name x x_mask$"),
    "types-1 for all": (
        within(DECLARATION, "batches = " + SECOND), NULLS, TWO_NODES, FEED, r"^age age_mask name name_mask x x_mask$",
    ),
}  # fmt: skip

pytestmark = [pytest.mark.spark, pytest.mark.tensorflow, pytest.mark.timeout(300)]


def output(program: str, folder: Path) -> str:
    """Run the program and return what it prints."""
    (folder / "program.py").write_text(program.replace("/tmp/", f"{folder}/"))
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-5000:]
    said = {text for text in re.findall(r"UserWarning: (.*)", done.stdout) if "ran out of data" not in text}
    assert not said  # the page says what Keras warns of, and why
    return done.stdout


@pytest.mark.parametrize("name", WHOLE)
def test_whole_program(name, tmp_path):
    printed = output(PROGRAMS[name], tmp_path)
    assert re.search(WHOLE[name], printed, re.DOTALL), printed[-5000:]


@pytest.mark.parametrize("name", PARTS)
def test_part_of_a_program(name, tmp_path):
    program, row, run, use, says = PARTS[name]
    printed = output(DRIVER.format(program=program, row=row, run=run, use=use), tmp_path)
    assert re.search(says, printed, re.DOTALL | re.MULTILINE), printed[-5000:]


def test_every_program_is_tried():
    calls = {"distributed-2"}  # makes the cluster for distributed-3
    assert PROGRAMS.keys() == {*WHOLE, *(name.split()[0] for name in PARTS), *calls}
