"""What stands in the way of a cluster: facts in, sentences out."""

from __future__ import annotations

import dataclasses
import re
import socket
import threading
from pathlib import Path

import pytest

from tests.support.preflight_facts import DRIVER, GIB, NEED, executor
from tfos_fast import errors
from tfos_fast.cluster.preflight import checks
from tfos_fast.cluster.preflight.checks import Facts, Need, Problem, check_executors, check_settings, check_shipped, explain_spark
from tfos_fast.cluster.spark import probe


def texts(found):
    assert all("\n" not in problem.text for problem in found.problems)
    return [(problem.kind.__name__, problem.text) for problem in found.problems]


def test_nothing_is_in_the_way():
    found = check_executors([executor("a"), executor("b")], DRIVER, NEED)
    assert (found.problems, found.advice, found.ship, found.along) == ([], [], False, set())
    assert check_settings({}).problems == check_settings({}).advice == []
    checks.raise_problems([])


def test_settings():
    found = check_settings({"spark.dynamicAllocation.enabled": "true", "spark.python.worker.reuse": "false"})
    assert [problem.kind for problem in found.problems] == [errors.SettingRefused]
    assert "spark.dynamicAllocation.enabled is true" in found.problems[0].text
    assert "spark.python.worker.reuse is false" in found.advice[0]


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"unreachable": "no answer within 3 s"}, "CoordinatorUnreachable", "a cannot reach .*front:4000 .no answer.*spark.driver"),
        ({"free": 100 << 20}, "NotEnoughMemory", "a may .* 100 MiB .*memory.max.* needs 1,024 MiB; lower"),
        ({"address_space": 512 << 20}, "NotEnoughMemory", "512 MiB of address space.*spark.executor.pyspark.memory"),
        ({"versions": {"pyspark": "3.5.1"}}, "VersionMismatch", "on a runs pyspark 3.5.1 and the driver runs 4.3.0"),
        ({"versions": {"numpy": "1.26.4"}}, "VersionMismatch", "numpy 1.26.4 and the driver has 2.4.6.*PYSPARK_PYTHON"),
        ({"versions": {"numpy": None}}, "MissingDependency", r"on a has no numpy; .* in its Python .*, or set"),
        ({"versions": {"tensorflow": "2.19.0"}}, "VersionMismatch", "2.19.0 on the executor on a, 2.21.0 on the executor on b"),
        ({"versions": {"tensorflow": None}}, "VersionMismatch", "no TensorFlow on the executor on a, 2.21.0"),
        ({"ours": None, "abi": "cpython-312-x86_64-linux-gnu"}, "VersionMismatch", "no tfos_fast.*-311.*runs cpython-312"),
        ({"versions": {"zmq": None}, "system": "linux aarch64"}, "VersionMismatch", "no pyzmq.*aarch64.*tfos-fast 0.1.0 in its"),
    ],
)  # fmt: skip
def test_each_problem_is_a_sentence_with_what_mends_it(changes, kind, words):
    ((found, text),) = texts(check_executors([executor("a", **changes), executor("b")], DRIVER, NEED))
    assert found == kind
    assert re.search(words, text), text


def test_everything_found_is_told_together():
    bad = [executor(host, free=1, unreachable="ECONNREFUSED", versions={"numpy": None}) for host in "abcde"]
    found = check_executors(bad, DRIVER, Need(5, GIB, "tcp://front:4000"))
    assert [kind for kind, _ in texts(found)] == ["CoordinatorUnreachable", "NotEnoughMemory", "MissingDependency"]
    assert "each of 5 executors on a, b, c and 2 more hosts cannot reach" in found.problems[0].text
    with pytest.raises(
        errors.PreflightFailed, match=r"(?s)3 things stand in the way.*; nothing was started:\n  1\. .*\n  3\. "
    ) as caught:
        checks.raise_problems(found.problems)
    assert [type(problem) for problem in caught.value.problems] == [problem.kind for problem in found.problems]
    with pytest.raises(errors.NotEnoughMemory):
        checks.raise_problems([Problem(errors.NotEnoughMemory, "one")])


@pytest.mark.parametrize(
    ("nodes", "executors", "free", "good"),
    [
        (2, 2, 2 * GIB, True), (2, 2, 2 * GIB - 1, False), (4, 2, 3 * GIB, False),
        (1, 2, GIB, True), (1, 2, GIB - 1, False), (3, 2, 3 * GIB, True),
    ],
)  # fmt: skip
def test_nodes_of_one_machine_share_its_memory(nodes, executors, free, good):
    here = [dataclasses.replace(executor("a"), free=free) for _ in range(executors)]
    assert (check_executors(here, DRIVER, Need(nodes, GIB, "")).problems == []) is good


def test_what_is_missing_or_another_one_is_sent():
    other = DRIVER.ours | {"digest": "e"}
    for ours in (None, other, DRIVER.ours | {"version": "0.0.9"}):
        found = check_executors([executor("a", ours=ours), executor("b")], DRIVER, NEED)
        assert (found.problems, found.ship, found.along) == ([], True, set())
    found = check_executors([executor("a", versions={"zmq": "24.0.1", "msgspec": None})], DRIVER, NEED)
    assert (found.problems, found.ship, found.along) == ([], True, {"zmq", "msgspec"})
    # What is installed from another build of the same files will do, and so will what is a version of unknown number.
    found = check_executors([executor("a", ours=DRIVER.ours | {"folder": "/there"}, versions={"psutil": ""})], DRIVER, NEED)
    assert not found.ship


def test_what_was_sent_must_have_come():
    assert check_shipped([executor("a")], DRIVER, ["zmq"]) == []
    (problem,) = check_shipped([executor("a", ours=DRIVER.ours | {"version": "0.0.9", "folder": "/old"})], DRIVER, [])
    assert re.search(r"sent to the executor on a, and Python there finds tfos_fast 0\.0\.9 in /old.*PYTHONPATH", problem.text)
    (problem,) = check_shipped([executor("a", import_error="ImportError: libc")], DRIVER, ["zmq"])
    assert re.search(r"cannot be imported there \(ImportError: libc\); install pyzmq, tfos_fast in", problem.text)


def test_words_of_spark():
    spark = "[PYTHON_VERSION_MISMATCH] Python in worker has different version: 3.9 than that in driver: 3.11, PySpark cannot run"
    assert explain_spark(spark).text.startswith(
        "the executors run Python 3.9 and the driver runs 3.11, which Spark refuses; set the environment variable PYSPARK_PYTHON"
    )
    older = "Python in worker has different version 3.9 than that in driver 3.11, PySpark cannot run"
    assert explain_spark(older) == explain_spark(spark)
    missing = explain_spark('java.io.IOException: Cannot run program "/no/python": error=2, No such file or directory')
    assert missing.kind is errors.MissingDependency
    assert "/no/python" in missing.text
    assert explain_spark("ZeroDivisionError") is None


def test_oldest_versions_are_those_of_the_project():
    text = (Path(__file__).parents[4] / "pyproject.toml").read_text()
    for (name, *_), least in checks.NEEDED.values():
        assert f'"{name}>={".".join(map(str, least))}"' in text


# ---- the facts themselves ----------------------------------------------------------------------------------------------------


def test_facts_of_this_process(tmp_path):
    facts = Facts(**probe.look("tfos_fast", "_along", checks.LOOKED_AT, None, 1.0, ("zmq",)))
    assert facts.ours["version"] == "0.1.0"
    assert Path(facts.ours["folder"]).name == "tfos_fast"
    assert all(facts.versions[module] for module in checks.LOOKED_AT)
    assert facts.import_error == ""
    assert check_executors([facts], facts, Need(1, 1, "")).problems == []


def test_a_package_is_known_without_importing_it(tmp_path, monkeypatch):
    folder = tmp_path / "tfos_other"
    folder.mkdir()
    (folder / "__init__.py").write_text('import not_there\n__version__ = "7.1"\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    first = probe.package("tfos_other", "_along")
    assert (first["version"], first["folder"]) == ("7.1", str(folder))
    (folder / "_along").mkdir()
    (folder / "_along" / "x.py").write_text("")
    assert probe.package("tfos_other", "_along") == first
    (folder / "b.py").write_text("")
    assert probe.package("tfos_other", "_along")["digest"] != first["digest"]
    assert probe.package("tfos_not_there", "") is None
    assert "not_there" in probe.import_error("tfos_other", ())


def test_reaching_a_coordinator():
    from tfos_fast.cluster.coordinator.coordinator import Coordinator

    coordinator = Coordinator("127.0.0.1", "127.0.0.1")
    try:
        host, port = coordinator.keys.endpoint.removeprefix("tcp://").split(":")
        assert probe.reach(host, int(port), 5.0) == ""
    finally:
        coordinator.close()
    assert probe.reach(host, int(port), 5.0).startswith("ECONNREFUSED")
    assert probe.reach("192.0.2.1", 9, 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert probe.reach(*server.getsockname(), 5.0) == "something else answers there"
        thread.join()
