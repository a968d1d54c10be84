"""How runs end on a real agent and coordinator, without Spark: in unkind surroundings, and badly after a good end of ``main``."""

from __future__ import annotations

import pytest

from tests.spark import mains
from tests.unit.test_agent import Nodes
from tfos_fast.channel.processes import alive


@pytest.fixture
def run(tmp_path):
    """``run(main)``: two nodes that run it."""
    nodes = []

    def start(main, kind=Nodes, **args):
        nodes.append(kind(main, {"out": str(tmp_path), **args}))
        return nodes[-1]

    yield start
    for each in nodes:
        each.close()


@pytest.mark.parametrize("what", ["read-only", "a file", "somebody else's", "not absolute"])
def test_a_driver_whose_own_runtime_folder_cannot_be_used(run, tmp_path, monkeypatch, what):
    """It has no use for one: neither a success nor a failure is hidden by it."""
    nodes = run(mains.collect)
    folder = tmp_path / "runtime"
    if what == "a file":
        folder.write_text("")
    else:
        folder.mkdir(mode=0o755 if what == "somebody else's" else 0o500)
    monkeypatch.setenv(
        "TFOS_RUNTIME_DIR", "runtime" if what == "not absolute" else f"{folder}/x" if what == "a file" else str(folder)
    )
    nodes.end_feed()
    agents = [info.agent for info in nodes.infos]
    nodes.close()  # stops the agents, and raises nothing
    assert not any(alive(agent.pid, agent.started) for agent in agents)
    assert nodes.coordinator.failures == []
