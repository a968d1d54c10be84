"""How runs end on a real agent and coordinator, without Spark: in unkind surroundings, and badly after a good end of ``main``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.spark import mains
from tests.spark.mains import noted
from tests.support import badly
from tests.support.agents import WAIT, Nodes, reserve_agent
from tests.support.helpers import agent_config, wait_for
from tests.support.leaks import our_processes
from tfos_fast.channel import Channel
from tfos_fast.channel.host.processes import alive, started
from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.coordinator.node_state import lingers
from tfos_fast.cluster.coordinator.restarts import Restarts
from tfos_fast.cluster.driver.stop_nodes import stop_agents
from tfos_fast.cluster.launch.reserve_task import StartMain, spawn_agent
from tfos_fast.cluster.protocol import handover as h
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.identity import this_process
from tfos_fast.cluster.protocol.last_word import Ear, Mouth
from tfos_fast.cluster.spark import closure
from tfos_fast.errors import NodeKilled

BOARD = importlib.util.find_spec("tensorboard") is not None


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


def feed(nodes, rows=20):
    """Some rows to each node, and the end of the feed."""
    for i in range(2):
        with nodes.writer(i) as writer:
            writer.open_partition(f"job/{i}", i)
            writer.write_rows(range(rows))
            writer.end_partition()
    nodes.published("job", 2, 2 * rows)
    nodes.coordinator.order(["worker:0", "worker:1"], m.EndFeed, WAIT)


WELL = [  # pairs for the two nodes, and what is said of each
    ("crash_at_exit", r"was killed by signal 11 \(SIGSEGV\) after main had returned"),
    ("killed_at_exit", r"was killed by signal 9 \(SIGKILL\).* after main had returned"),
    ("status_at_exit", "ended with status 7 after main had returned"),
    ("exit_zero", r"ended with status 0 before main had returned, as by os._exit"),
    ("stdout_closed", "|ended with status 120 after main"),
    ("stdout_descriptor_closed", "|ended with status 120 after main"),
    ("stdout_without_flush", "|ended with status 120 after main"),
    ("stdout_none", ""),
    ("stdout_full", "|ended with status 120 after main"),
    ("daemon_thread", ""),
    ("forks", ""),
    ("child", ""),
    ("other_descriptors_closed", "|was killed by signal 6"),
    ("small_files", ""),
    ("interrupted", ""),
    ("threads_taken_away", ""),
]


@pytest.mark.parametrize("pair", list(zip(WELL[::2], WELL[1::2], strict=True)), ids=lambda pair: f"{pair[0][0]}-{pair[1][0]}")
def test_what_comes_after_a_good_end_is_no_failure(run, tmp_path, pair, caplog):
    nodes = run(badly.main, how=[how for how, _ in pair])
    feed(nodes)
    nodes.wait(lambda: nodes.state(0).ended and nodes.state(1).ended, "the end of both")
    assert nodes.coordinator.failures == []
    assert noted(tmp_path) == {0: [*range(20)], 1: [*range(20)]}
    for i, (_, says) in enumerate(pair):
        note = nodes.state(i).note
        assert re.fullmatch(rf"(.*{says}.*)", note) if not says.startswith("|") else re.search(says[1:], note) or not note
        assert note in caplog.text


def test_reports_take_the_place_of_the_one_before_and_none_is_too_long():
    ear = Ear()
    mouth = Mouth(*map(os.dup, ear.inherited))
    try:
        assert ear.read() is None
        longest = h.Report(*(m.clip("\U0001f600" * 2 * most, most) for most in (m.MAX_TEXT, m.MAX_TRACEBACK)))
        for report in (h.Report(leaving=True), longest, h.Report(waits="a"), longest, longest, h.Report()):
            mouth.write(report)
            assert ear.read() == report
        with pytest.raises(ValueError, match=r"a report of \d+ bytes"):
            mouth.write(h.Report(remote_traceback="x" * (1 << 19)))
        assert ear.read() == h.Report()
    finally:
        ear.close()
        os.close(ear.bell)
        os.close(mouth._rope[0])


def test_exit_with_status_zero_while_rows_wait_is_a_failure(run):
    nodes = run(badly.early)
    writer = nodes.writer(0)
    writer.open_partition("job/0", 1)
    with pytest.raises(
        NodeKilled, match=r"ended with status 0 without a word from main, as by os._exit, before its feed had ended"
    ):
        while True:
            writer.write_rows(range(1000))
    nodes.wait(lambda: nodes.coordinator.failure is not None, "the failure")
    assert nodes.coordinator.failure.kind == "NodeKilled"


BADLY = [
    "stderr_blocked", "stderr_closed", "stderr_descriptor_closed", "stderr_none", "stderr_broken", "stderr_full",
    "words_that_cannot_be_printed", "small_files_and_failure",
]  # fmt: skip


@pytest.mark.parametrize("how", list(zip(BADLY[::2], BADLY[1::2], strict=True)), ids="-".join)
def test_an_exception_is_told_whatever_has_become_of_stderr(run, how):
    nodes = run(badly.main, how=how)
    feed(nodes)
    nodes.wait(lambda: nodes.state(0).ended and nodes.state(1).ended, "the end of both")
    failures = {failure.node: failure for failure in nodes.coordinator.failures}
    for i in range(2):
        failure = failures[f"worker:{i}"]
        assert failure.kind == "NodeFailed"
        wordless = how[i] == "words_that_cannot_be_printed"
        assert ("Wordless" if wordless else "main raised ArithmeticError: planned after the feed") in failure.summary
        assert wordless or "in _fail" in failure.remote_traceback


def test_a_program_that_closes_all_descriptors_is_heard(run, tmp_path):
    """The files that it then opens have the numbers of ours, and nothing is written into them."""
    nodes = run(badly.unread, how=["all_descriptors_closed"] * 2)
    nodes.wait(lambda: len(nodes.coordinator.failures) == 2, "both failures")
    for failure in nodes.coordinator.failures:
        assert "main raised ArithmeticError: planned after the feed" in failure.summary
    assert [path.name for path in tmp_path.iterdir() if path.stat().st_size] == []


def test_the_report_does_not_need_the_folder(run, tmp_path):
    """A cleaner has removed it while main ran."""
    nodes = run(badly.main, how=["crash_at_exit", "stderr_none"])
    nodes.wait(lambda: all(nodes.state(i).beat and nodes.state(i).beat.reader for i in range(2)), "readers")
    for info in nodes.infos:
        shutil.rmtree(info.directory)
    feed(nodes)
    nodes.wait(lambda: nodes.state(0).ended and nodes.state(1).ended, "the end of both")
    assert [failure.summary.partition("raised ")[2] for failure in nodes.coordinator.failures] == [
        "ArithmeticError: planned after the feed"
    ]
    assert noted(tmp_path) == {0: [*range(20)], 1: [*range(20)]}


def test_the_driver_hears_that_main_has_returned(run):
    nodes = run(badly.main, how=["thread", "exit_handler"])
    feed(nodes)
    nodes.wait(lambda: all(nodes.state(i).returned for i in range(2)), "both to return")
    assert not nodes.state(0).ended
    assert re.search(
        r"worker:0 on .*: main returned \d+ s ago, and its process \(\d+\) waits for .*daemons \(saver\)", lingers(nodes.state(0))
    )
    assert re.search(r"worker:1 on .*: main returned \d+ s ago, and its process \(\d+\) has not ended yet", lingers(nodes.state(1)))
    trainers = [nodes.state(i).trainer for i in range(2)]
    nodes.close()
    assert not any(alive(trainer.pid, trainer.started) for trainer in trainers)
    assert nodes.coordinator.failures == []


def test_the_driver_hears_for_which_processes_it_waits(run):
    nodes = run(badly.unread, how=["workers", "thread"])
    nodes.wait(lambda: all(nodes.state(i).returned for i in range(2)), "both to return")
    assert re.search(r"its process \(\d+\) waits for processes of multiprocessing \(loader\)", lingers(nodes.state(0)))


@pytest.fixture
def executors():
    """Two processes, and ``Nodes`` of which each belongs to one."""
    processes = [subprocess.Popen(badly.SLEEP) for _ in range(2)]

    class OfExecutors(Nodes):
        def _reserve(self, index):
            return reserve_agent(self.coordinator, index, this_process(processes[index].pid)).node

    yield processes, OfExecutors
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("whom", ["agent", "executor"])
def test_whatever_ends_a_node_whose_main_runs_is_a_failure(whom, tmp_path, executors):
    processes, kind = executors
    nodes = kind(badly.main, {"out": str(tmp_path), "how": ["sleeps", "sleeps"]})
    try:
        feed(nodes)
        nodes.wait(lambda: len(noted(tmp_path)) == 2, "the end of the feed")
        os.kill(nodes.infos[0].agent.pid if whom == "agent" else processes[0].pid, signal.SIGKILL)
        nodes.wait(lambda: nodes.coordinator.failure is not None, "the failure")
        assert nodes.coordinator.failure.kind == "NodeLost"
        assert (nodes.state(0).note, nodes.state(0).failure) == ("", nodes.coordinator.failure)
    finally:
        nodes.close()


@pytest.mark.parametrize("whom", ["agent", "executor"])
def test_whatever_ends_a_node_after_its_main_is_no_failure(whom, tmp_path, caplog, executors):
    """Its process still runs. Resource managers take executors away that have nothing to do, and all of their processes."""
    processes, kind = executors
    nodes = kind(badly.main, {"out": str(tmp_path), "how": ["thread", "thread"]})
    try:
        feed(nodes)
        nodes.wait(lambda: all(nodes.state(i).returned for i in range(2)), "both to return")
        if whom == "agent":
            os.kill(nodes.infos[0].agent.pid, signal.SIGKILL)
        else:
            processes[0].kill()
            processes[0].wait()
        nodes.wait(lambda: nodes.state(0).gone, "the end of the agent")
        assert nodes.coordinator.failures == []
        how = {"agent": "was killed by signal 9 .*", "executor": "died after main had returned; "}[whom]
        assert re.search(rf"its .*{whom} \(process \d+\) {how}.*what main has done counts", nodes.state(0).note)
        assert nodes.state(0).note in caplog.text
    finally:
        nodes.close()
    assert noted(tmp_path) == {0: [*range(20)], 1: [*range(20)]}


def test_a_process_that_lives_on_holds_up_no_feed(run):
    """Its main has returned and never asked for rows."""
    nodes = run(badly.unread, how=["thread", "thread"])
    nodes.wait(lambda: nodes.state(0).terminated and nodes.state(1).terminated, "word that they take no rows")
    writer = nodes.writer(0)
    writer.open_partition("job/0", 1)
    assert writer.write_rows(range(1_000_000)) < 1_000_000  # it is told that nobody wants them


def test_trainers_have_the_signals_of_a_fresh_process(run, tmp_path, monkeypatch):
    """Agents ignore SIGINT and SIGHUP, and a Spark worker may ignore or block others."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        nodes = run(badly.main, how=["signals", "daemon_thread"])
    finally:
        signal.signal(signal.SIGUSR1, before)
    feed(nodes)
    nodes.wait(lambda: nodes.state(0).ended and nodes.state(1).ended, "the end of both")
    names, blocked, handler, mask = (tmp_path / "signals").read_text().rsplit(" ", 3)
    assert (names, blocked, handler) == ("['SIGPIPE', 'SIGXFSZ']", "[]", "default_int_handler")
    ignored = {number for number in range(1, 65) if int(mask, 16) >> (number - 1) & 1}  # by a program that it starts
    assert not ignored & signal.valid_signals()  # 32 and 33 are the C library's own: no program can set them


def _main_of(data):
    return pickle.loads(data)[0]


def test_a_main_that_cannot_be_loaded(tmp_path):
    """Its module is not on the executors, or another one is."""
    driver = tmp_path / "driver"
    driver.mkdir()
    program = "def {}(args, ctx): pass"
    for name in ("tfos_test_absent", "tfos_test_other"):
        (driver / f"{name}.py").write_text(program.format("main"))
    sys.path.insert(0, str(driver))
    try:
        mains = [importlib.import_module(name).main for name in ("tfos_test_absent", "tfos_test_other")]
        pickles = [pickle.dumps((main, {})) for main in mains]
    finally:
        sys.path.remove(str(driver))
    (driver / "tfos_test_absent.py").unlink()
    (driver / "tfos_test_other.py").write_text(program.format("another"))

    class Pickled:
        """Stands in a pickle for what another pickle has."""

        def __init__(self, data):
            self.data = data

        def __reduce__(self):
            return _main_of, (self.data,)

    class Elsewhere(Nodes):
        def _start(self, info, channel, main, args):
            sys.path.insert(0, str(driver))
            try:
                super()._start(info, channel, Pickled(pickles[info.index]), args)
            finally:
                sys.path.remove(str(driver))

    nodes = Elsewhere(None, {})
    try:
        nodes.wait(lambda: len(nodes.coordinator.failures) == 2, "both failures")
        said = {failure.node: failure.summary for failure in nodes.coordinator.failures}
    finally:
        nodes.close()
    absent = r"main cannot be loaded: ModuleNotFoundError: No module named 'tfos_test_absent'\. .*--py-files"
    assert re.search(absent, said["worker:0"])
    assert re.search(r"main cannot be loaded: AttributeError: .*'main'.*tfos_test_other.*--py-files", said["worker:1"])


@pytest.mark.parametrize(
    ("name", "value", "says"), [("TENSORFLOW_PORT", "99\udcff97", "99.*udcff97"), ("TFOS_RUNTIME_DIR", "/tmp/\udcff", r"tmp/\\xff")]
)
def test_a_setting_that_is_no_text_is_named(monkeypatch, name, value, says):
    """The message shows it."""
    monkeypatch.setenv(name, value)
    coordinator = Coordinator("127.0.0.1", "127.0.0.1")
    try:
        ready = msgspec.json.decode(spawn_agent(agent_config(coordinator, 0, this_process())), type=h.Ready)
    finally:
        coordinator.close()
    assert ready.node is None
    assert re.search(rf"{name}.*{says}", ready.text)


def identities(folder):
    """Start times of what the programs have started, as noted: node -> {pid: start}."""
    return {node: {pid: started(pid) for pid in pids} for node, pids in noted(folder, "pids").items()}


def left(family):
    return [pid for pid, start in family.items() if alive(pid, start)]


@pytest.mark.parametrize("then", ["returns", "raises", "runs"])
def test_what_a_trainer_has_started_ends_with_the_node(run, tmp_path, then):
    nodes = run(badly.families, then=then)
    nodes.wait(lambda: len(noted(tmp_path, "pids")) == 2, "the processes")
    families = identities(tmp_path)
    assert all(left(family) == list(family) for family in families.values())  # 6 of each
    if then != "runs":
        nodes.wait(lambda: nodes.state(0).ended and nodes.state(1).ended, "the end of both")
    bystander = subprocess.Popen(badly.SLEEP, start_new_session=True)  # of this process, as its agents are
    try:
        nodes.close()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert [left(family) for family in families.values()] == [[], []]


def test_what_a_trainer_has_started_ends_with_a_killed_agent(run, tmp_path):
    """Its parent sees to it."""
    nodes = run(badly.families, then="runs")
    nodes.wait(lambda: len(noted(tmp_path, "pids")) == 2, "the processes")
    families = identities(tmp_path)
    os.kill(nodes.infos[0].agent.pid, signal.SIGKILL)
    wait_for(lambda: not left(families[0]))
    nodes.wait(lambda: nodes.state(0).gone, "the agent's end")
    assert "was killed by signal 9 (SIGKILL)" in nodes.state(0).failure.summary
    assert left(families[1]) == list(families[1])


def test_orphans_that_have_ended_are_taken_away(run, tmp_path):
    nodes = run(badly.families, then="runs")
    nodes.wait(lambda: len(noted(tmp_path, "pids")) == 2, "the processes")
    agent = psutil.Process(nodes.infos[0].agent.pid)
    wait_for(lambda: all(child.status() != psutil.STATUS_ZOMBIE for child in agent.children()))
    assert nodes.state(0).trainer.pid in {child.pid for child in agent.children()}


class Restarting(Nodes):
    """Their trainers may be started again once; one for remote feeds, too, has a gateway and a TensorBoard."""

    def __init__(self, main, args):
        super().__init__(main, args)
        self.coordinator.restarts = Restarts(1)

    def _reserve(self, index):
        config = msgspec.structs.replace(agent_config(self.coordinator, index, this_process()), listen="loopback")
        return msgspec.json.decode(spawn_agent(config), type=h.Ready).node

    def _start(self, info, channel, main, args):
        folder = Path(info.directory) / "main"
        folder.mkdir()
        board = str(folder / "logs") if BOARD and info.index == 0 else ""
        handover = h.Handover(
            info.name, "worker", info.index, info.index, {"worker": ["a:1", "b:2"]}, info.address,
            sys.path, os.getcwd(), dict(os.environ), os.getcwd(), {}, "WARNING", board, restarts=True,
        )  # fmt: skip
        (folder / h.MAIN).write_bytes(closure.dumps((main, args)))
        (folder / h.HANDOVER).write_bytes(h.encode(handover))
        assert channel.control("start", msgspec.msgpack.encode(h.StartTrainer(str(folder)))) == b"started"


def test_tensorboard_and_gateway_outlive_a_trainer(run, tmp_path):
    """They are children of the agent, as orphans of the trainer are."""
    nodes = run(badly.families, kind=Restarting, then="runs")
    host, _, port = nodes.infos[0].feed_endpoint.rpartition(":")
    agent = psutil.Process(nodes.infos[0].agent.pid)

    def others():
        """Its children of ours."""
        commands = {pid: words for pid, words in our_processes().items() if pid in {child.pid for child in agent.children()}}
        kinds = ("gateway", "tfos_fast.cluster.agent.tensorboard")
        return {pid for pid, command in commands.items() if any(kind in command for kind in kinds)}

    with socket.create_connection((host, int(port))):
        nodes.wait(lambda: len(noted(tmp_path, "pids")) == 2 and len(others()) == 1 + BOARD, "processes and gateway")
        families, before = identities(tmp_path), others()
        (tmp_path / "pids-0.json").unlink()
        os.kill(nodes.state(0).trainer.pid, signal.SIGKILL)
        nodes.wait(lambda: 0 in noted(tmp_path, "pids"), "the second life")
        assert left(families[0]) == []
        assert others() == before
        assert left(families[1]) == list(families[1])
    assert nodes.coordinator.failures == []


def test_a_group_of_which_one_is_gone_is_not_started_again(run):
    """It could not be: the failure that wants it is told, and nobody waits."""
    nodes = run(badly.unread, kind=Restarting, how=["thread", "sleeps"])
    nodes.coordinator.restarts = Restarts(1, "group")
    nodes.wait(lambda: nodes.state(0).returned and nodes.state(1).trainer, "the first to return")
    os.kill(nodes.infos[0].agent.pid, signal.SIGKILL)
    nodes.wait(lambda: nodes.state(0).gone, "the end of its agent")
    assert nodes.coordinator.failures == []
    os.kill(nodes.state(1).trainer.pid, signal.SIGKILL)
    nodes.wait(lambda: nodes.coordinator.failure is not None, "the failure")
    assert re.search(
        r"worker:1 .*SIGKILL.*all are started again together, and worker:0 cannot be: its agent is gone",
        nodes.coordinator.failure.summary,
    )


class Surrounded(Nodes):
    """Their trainers get variables and paths that are bytes and no text."""

    def _start(self, info, channel, main, args):
        folder = Path(info.directory) / "main"
        folder.mkdir()
        path, place = os.fsdecode(os.fsencode(args["out"]) + b"/path-\xff"), os.fsdecode(os.fsencode(args["out"]) + b"/here-\xfe")
        os.makedirs(place, exist_ok=True)
        handover = h.Handover(
            info.name, "worker", info.index, info.index, {"worker": ["a:1", "b:2"]}, info.address,
            [*sys.path, path], place, {**os.environ, "TFOS_TEST_\udcffNAME": "value-\udcfe"}, place, {}, "WARNING",
        )  # fmt: skip
        (folder / h.MAIN).write_bytes(closure.dumps((main, args)))
        (folder / h.HANDOVER).write_bytes(h.encode(handover))
        assert h.read_handover(folder) == handover
        assert channel.control("start", msgspec.msgpack.encode(h.StartTrainer(str(folder)))) == b"started"


def test_surroundings_that_are_no_text_are_carried_along(run, tmp_path):
    nodes = run(badly.main, kind=Surrounded, how=["surroundings", "daemon_thread"])
    feed(nodes)
    nodes.wait(lambda: nodes.state(0).ended and nodes.state(1).ended, "the end of both")
    assert nodes.coordinator.failures == []
    here, value, path = (tmp_path / "surroundings").read_bytes().split(b"\n")
    assert (here, value) == (os.fsencode(tmp_path) + b"/here-\xfe", b"value-\xfe")
    assert path == os.fsencode(tmp_path) + b"/path-\xff"


@pytest.mark.parametrize("restarts", [False, True])
def test_main_lies_on_disk_once_and_as_long_as_it_is_needed(tmp_path, restarts):
    """Each task slot of an executor comes to a node: one hands over, the others write nothing."""
    coordinator = Coordinator("127.0.0.1", "127.0.0.1")
    try:
        info = msgspec.json.decode(spawn_agent(agent_config(coordinator, 0, this_process())), type=h.Ready).node
        coordinator.expect({info.name: info.token})
        main = closure.dumps((badly.wait_for_file, {"out": str(tmp_path), "much": b"x" * 1_000_000}))
        task = StartMain((info,), {"worker": ["a:1"]}, main, (), "WARNING", False, ("", ""), 0.0, restarts)
        channels = [Channel.attach(info.address) for _ in range(8)]
        dead = subprocess.Popen(["true"])  # a task that died when it had begun
        ask = msgspec.msgpack.encode(m.Process(dead.pid, started(dead.pid) or 1, info.agent.machine))
        assert channels[0].control("prepare", ask) == h.GO
        dead.wait()
        other = msgspec.msgpack.encode(this_process(os.getppid()))
        assert channels[0].control("prepare", other) == h.GO
        assert channels[0].control("prepare", msgspec.msgpack.encode(this_process())) == b"no"
        assert channels[0].control("leave", other) == b""
        for channel in channels:
            task.hand(channel, info, {})
        pickles = list(Path(info.directory).glob("*/main.pkl"))
        assert len(list(Path(info.directory).glob("main-*"))) == 1
        coordinator.wait(lambda: (tmp_path / "runs").exists(), WAIT, "the test waits for main")
        assert [path.exists() for path in pickles] in ([restarts], [])
        (tmp_path / "go").touch()
        coordinator.wait(lambda: coordinator.nodes[info.name].ended, WAIT, "the test waits for the end")
        for channel in channels:
            channel.close()
        assert coordinator.failures == []
    finally:
        stop_agents(coordinator)
        coordinator.close()


def test_a_handover_that_comes_to_nothing_leaves_nothing(tmp_path, monkeypatch):
    coordinator = Coordinator("127.0.0.1", "127.0.0.1")
    try:
        info = msgspec.json.decode(spawn_agent(agent_config(coordinator, 0, this_process())), type=h.Ready).node
        coordinator.expect({info.name: info.token})
        task = StartMain((info,), {"worker": ["a:1"]}, b"", (7,), "WARNING", False, ("", ""), 0.0)
        with Channel.attach(info.address) as channel:
            with pytest.raises(KeyError):
                task.hand(channel, info, {})  # there is no such broadcast variable
            assert list(Path(info.directory).glob("main-*")) == []
            other = msgspec.msgpack.encode(this_process(os.getppid()))
            assert channel.control("prepare", other) == h.GO
    finally:
        stop_agents(coordinator)
        coordinator.close()
