"""The benchmark suite runs, and its JSON file says what it is said to say."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.feed import beside
from benchmarks.report import Report

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.long
def test_a_quick_run_writes_every_case(tmp_path):
    path = tmp_path / "out.json"
    cases = {"lambda", "lifecycle"}
    command = [sys.executable, "-m", "benchmarks", "feed", "--quick", "--profile", "--only", ",".join(cases), "--json", str(path)]
    environment = {key: value for key, value in os.environ.items() if key != "SPARK_HOME"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stdout + run.stderr

    found = json.loads(path.read_text())
    assert found["failed"] == {}
    assert set(found["cases"]) == cases
    assert found["machine"]["processors"] == os.cpu_count()
    assert found["options"]["repeats"] == 1
    for name, case in found["cases"].items():
        measured = {way: figures for way, figures in case["ways"].items() if not way.startswith("TFoS")}
        assert all(len(figures["samples"]) == 1 and figures["median"] > 0 for figures in measured.values()), name
        assert all(bar["holds"] in (True, False, None) for bar in case["bars"]), name
        assert f"\n{name}: " in run.stdout
    assert found["cases"]["lifecycle"]["ways"]["TFoS"] == {"median": None, "samples": []}
    fed = found["cases"]["lambda"]
    (bar,) = fed["bars"]
    assert bar["ratio"] == fed["ways"][bar["way"]]["median"] / fed["ways"][bar["against"]]["median"]
    assert set(fed["cpu"]) == {"drain", "feed.tensors(256)"}
    spent = fed["cpu"]["feed.tensors(256)"]
    assert {"agents", "trainers", "Python workers", "executors' JVMs"} <= set(spent)
    assert spent["all"]["us_user"] > 0


@pytest.mark.long
def test_parts_of_a_feed_alone(tmp_path):
    path = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks", "parts", "--only", "n", "--repeats", "1", "--json", str(path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    parts = json.loads(path.read_text())["parts"]
    assert set(parts) == {"tens", "frame-columns"}
    assert {"scan", "scan and pack", "memcpy", "read", "hand out", "sum", "tf.data alone"} == set(parts["tens"])
    assert {"pyarrow alone", "hand out", "sum"} == set(parts["frame-columns"])
    assert all(len(samples) == 1 and samples[0] > 0 for case in parts.values() for samples in case.values())


def test_a_missing_environment_of_tensorflowonspark_is_a_failed_case_that_says_what_makes_it(tmp_path):
    told = {"executors": 2, "repeats": 1, "seconds": 0.2, "quick": True, "executor_mib": 1024, "conf": []}
    report = Report({}, {}, None)
    assert beside(report, ["tens"], argparse.Namespace(tfos=str(tmp_path / "bin" / "python"), **told)) == {}
    assert "scripts/tfos-env.sh" in report.content["failed"]["TensorFlowOnSpark"]
