"""Two real agents with their trainers and a real coordinator, without Spark: partitions that move, deaths, endings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from tests.spark import mains
from tests.spark.mains import noted
from tests.support import attack
from tests.support.agents import WAIT, Nodes, reserve_agent
from tests.support.helpers import agent_config
from tfos_fast.channel import Channel
from tfos_fast.channel.host.processes import runtime_base
from tfos_fast.channel.protocol.address import Address
from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.protocol import handover as h
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.identity import this_process
from tfos_fast.cluster.trainer.main import _report as trainer_report
from tfos_fast.errors import ChannelClosed, ChannelError, ClusterError, Fenced, NodeFailed, NodeKilled, Yielded


@pytest.fixture
def nodes(request, tmp_path):
    it = Nodes(request.param, {"out": str(tmp_path)})
    yield it
    it.close()


@pytest.mark.parametrize("nodes", [mains.collect], indirect=True)
def test_partition_moves_to_the_other_node_behind_what_was_published(nodes, tmp_path):
    rows = list(range(1000))

    def until_published():
        """The reader starves, and so a part of a slot goes out."""
        for row in rows:
            if nodes.channels[0].status()["rows_published"]:
                return
            yield row
            time.sleep(0.01)

    first = nodes.writer(0)
    assert first.open_partition("job/0", 7) == 0
    sent = first.write_rows(until_published())

    second = nodes.writer(1)
    skip = second.open_partition("job/0", 8)
    assert 0 < skip <= sent < len(rows)
    with pytest.raises(Fenced, match="attempt 7 at partition job/0 was replaced by attempt 8"):
        while True:
            first.write_rows(rows)
    with pytest.raises(Fenced, match="replaced by attempt 8"):
        nodes.writer(0).open_partition("job/0", 6)

    second.write_rows(rows[skip:])
    second.end_partition()
    second.close(wait=True)
    assert nodes.writer(0).open_partition("job/0", 9) == len(rows)  # all is there already
    nodes.published("job", 1, len(rows))
    nodes.end_feed()
    assert noted(tmp_path) == {0: rows[:skip], 1: rows[skip:]}


@pytest.mark.parametrize("nodes", [mains.slow], indirect=True)
def test_death_of_a_trainer_is_told_to_writers_and_driver(nodes, tmp_path):
    writer = nodes.writer(1)
    writer.open_partition("job/0", 1)
    os.kill(nodes.state(1).trainer.pid, signal.SIGSEGV)
    with pytest.raises(NodeKilled, match=r"worker:1 on .* killed by signal 11 \(SIGSEGV\)"):
        while True:
            writer.write_rows(range(1000))
    nodes.wait(lambda: nodes.coordinator.failure is not None, "the failure")
    assert (nodes.coordinator.failure.kind, nodes.coordinator.failure.signal) == ("NodeKilled", 11)
    with pytest.raises(NodeKilled):  # who comes later hears of it, too
        nodes.writer(1).open_partition("job/1", 2)


@pytest.mark.parametrize("nodes", [mains.fail_in_a_moment], indirect=True)
def test_exception_comes_with_its_traceback(nodes):
    for i in range(2):
        with nodes.writer(i) as writer:
            writer.open_partition(f"job/{i}", 1)
            writer.write_rows(range(10))
    writer = nodes.writer(0)
    with pytest.raises(NodeFailed, match="it went wrong later") as caught:
        writer.open_partition("job/2", 1)
        while True:
            writer.write_rows(range(1000))
    assert "in fail_in_a_moment" in caught.value.remote_traceback


@pytest.mark.parametrize("feed", ["", "validation"])
@pytest.mark.parametrize("nodes", [mains.collect], indirect=True)
def test_the_driver_hears_of_rows_that_cannot_be_fed(nodes, feed):
    with Channel.attach(nodes.infos[0].address) as default:
        address = default.control("feed", feed.encode()).decode()
    with Channel.attach(address) as channel:
        assert channel.control("unfit", b"job/1\nSchemaMismatch\nrow 0: one line\nand another") == b""
    nodes.wait(lambda: nodes.coordinator.unfit, "word of a row")
    assert nodes.coordinator.unfit == {"job/1": ("SchemaMismatch", "row 0: one line\nand another")}


@pytest.mark.parametrize("nodes", [mains.hold], indirect=True)
def test_a_node_that_holds_sends_partitions_elsewhere(nodes, tmp_path):
    early = nodes.writer(0)
    threading.Timer(0.2, (tmp_path / "go").touch).start()  # by then it waits for a reader
    with pytest.raises(Yielded):
        early.open_partition("job/0", 1)
    with pytest.raises(Yielded):
        nodes.writer(0).open_partition("job/0", 2)
    nodes.wait(lambda: nodes.state(0).holding and nodes.state(1).holding, "the driver to hear of it")
    assert not nodes.state(0).eats
    assert not nodes.state(0).ended
    with pytest.raises(ChannelClosed, match=r"takes no rows"):
        next(iter(nodes.writer(0).exchange([1], "job/0", 3)))


@pytest.mark.parametrize("nodes", [mains.deaf], indirect=True)
def test_trainer_dies_with_its_agent(nodes, tmp_path):
    trainer = nodes.state(0).trainer
    os.kill(nodes.infos[0].agent.pid, signal.SIGKILL)
    nodes.wait(lambda: nodes.state(0).gone, "the agent's end")
    assert "was killed by signal 9 (SIGKILL)" in nodes.state(0).failure.summary
    deadline = time.monotonic() + WAIT
    while this_process(trainer.pid).started == trainer.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("nodes", [mains.deaf], indirect=True)
def test_agents_end_when_the_coordinator_is_gone(nodes):
    """Without a word: as after a crash of the driver that the kernel of another host cannot tell."""
    agents = [info.agent for info in nodes.infos]
    nodes.coordinator.close()
    deadline = time.monotonic() + WAIT
    while any(this_process(agent.pid).started == agent.started for agent in agents):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_agent_whose_executor_is_gone_leaves_nothing():
    """It was killed while its task spawned the agent."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    executor = this_process(process.pid)
    process.communicate()
    coordinator = Coordinator("127.0.0.1", "127.0.0.1")
    try:
        ready = reserve_agent(coordinator, 0, executor)
    finally:
        coordinator.close()
    assert ready.node is None
    assert f"process {process.pid}, which worker:0 belongs to, is gone" in ready.text


def test_an_agent_that_cannot_answer_leaves_nothing():
    """The worker's end of the pipe is closed, as when it was killed."""
    coordinator = Coordinator("127.0.0.1", "127.0.0.1")
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "tfos_fast.cluster.agent.agent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        process.stdout.close()
        process.stdin.write(msgspec.json.encode(agent_config(coordinator, 0, this_process())))
        process.stdin.close()
        process.wait(WAIT)
        deadline = time.monotonic() + WAIT
        while left := list(runtime_base().iterdir()):
            assert time.monotonic() < deadline, left
            time.sleep(0.01)
    finally:
        coordinator.close()


def test_words_that_are_no_text_are_told_all_the_same():
    """An exception's message with a lone surrogate, and a very long one."""
    report = trainer_report(ValueError("the file \udcff is missing" + "x" * 1_000_000))
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=h.Report)
    assert again.summary.startswith("main raised ValueError: the file \\udcff is missing")
    assert len(again.summary) < 2 * m.MAX_TEXT
    assert len(again.remote_traceback) < 2 * m.MAX_TRACEBACK


@pytest.mark.parametrize("nodes", [mains.collect], indirect=True)
def test_keys_are_in_no_command_line_and_no_environment(nodes):
    keys = nodes.coordinator.keys
    for process in (nodes.infos[0].agent, nodes.state(0).trainer):
        folder = Path(f"/proc/{process.pid}")
        for where in ("cmdline", "environ"):
            text = (folder / where).read_bytes()
            assert text
            assert keys.client_secret not in text
            assert nodes.infos[0].token.encode() not in text
        assert attack.as_user(lambda folder=folder: (folder / "environ").read_text()) == "PermissionError"
    assert b"tfos_fast.cluster.agent.agent" in Path(f"/proc/{nodes.infos[0].agent.pid}/cmdline").read_bytes()
    nodes.end_feed()


class Attacked(Nodes):
    """Their agents get senseless requests before they get a program."""

    def _start(self, info, channel, main, args):
        folder = Path(info.directory) / "empty"
        folder.mkdir()
        (folder / h.HANDOVER).write_bytes(b"\xff")
        starts = [
            msgspec.msgpack.encode(h.StartTrainer(where)) for where in ("a\0b", "/", str(folder) + "2", "x" * 5000, str(folder))
        ]
        for name, body in [*(("start", start) for start in starts), ("feed", b"\xff/.."), ("no such", b"")]:
            with pytest.raises(ClusterError):
                channel.control(name, body)
        for body in (b"", b"\xff", b"\x81\xa9directory\xa1\xff"):
            with Channel.attach(info.address) as bad, pytest.raises(ChannelError, match="protocol error"):
                bad.control("start", body)
        for body in (b"", b"no lines", b"a job\na kind", b"\xff\n\xff\n\xff"):  # a job that nobody waits for
            assert channel.control("unfit", body) == b""
        super()._start(info, channel, main, args)


def test_a_feed_goes_on_under_attack(tmp_path):
    """Strangers at the coordinator, broken clients at the brokers."""
    nodes = Attacked(mains.collect, {"out": str(tmp_path)})
    try:
        endpoint = nodes.coordinator.keys.endpoint
        with attack.connections(endpoint, 100, attack.greeting(b"CURVE")):
            for part in range(4):
                for opening in attack.OPENINGS.values():
                    attack.say(endpoint, opening)
                for body in (b"\x92\xa3Bye" + b"\x91" * 100_000, b"", b"\xff" * 100):
                    with attack.dealer(f"ipc://{Address.parse(nodes.infos[part % 2].address).socket}") as client:
                        client.send(body)
                        assert client.poll(10_000)
                with nodes.writer(part % 2) as writer:
                    assert writer.open_partition(f"job/{part}", part) == 0
                    writer.write_rows(range(1000))
                    writer.end_partition()
        nodes.published("job", 4, 4000)
        nodes.end_feed()
        assert noted(tmp_path) == {0: [*range(1000)] * 2, 1: [*range(1000)] * 2}
    finally:
        nodes.close()
