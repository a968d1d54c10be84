"""What the agent does about processes that are held by a SIGSTOP: real processes, and a broker that they are attached to."""

from __future__ import annotations

import os
import signal
import time
from types import SimpleNamespace

import pytest

from tests.support.helpers import broker_here, child, wait_for
from tfos_fast.channel import Channel
from tfos_fast.channel.host.processes import is_stopped
from tfos_fast.channel.protocol.messages import Form
from tfos_fast.cluster.agent.stopped import StoppedProcesses
from tfos_fast.cluster.protocol.identity import machine_id


def open_one(pipe, address, exchange, patience):
    writer = Channel.attach(address).writer(stall_timeout=patience)
    writer.open_partition("infer/0", 0, exchange=exchange)
    pipe.send("open")
    pipe.recv()


def held_of(broker, *, workers=None, machine=None, trainer=None):
    executor = SimpleNamespace(machine=machine or machine_id(), pid=os.getpid())
    config = SimpleNamespace(executor=executor, workers=workers or os.getpid())
    return StoppedProcesses(config, SimpleNamespace(all=lambda: [broker]), lambda: trainer)


def test_a_held_task_of_an_inference_is_killed_after_half_of_its_timeout():
    with broker_here(form=Form("rows")) as broker, child(open_one, broker.address, True, 0.6) as task:
        assert task.hear() == "open"
        held = held_of(broker)
        pid = task.process.pid
        assert held.look() == {}
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: is_stopped(pid))
        begin = time.monotonic()
        assert held.look() == {pid: "task"}
        assert held.words() == f"; the task (process {pid}) is stopped (SIGSTOP, or a debugger)"
        while task.process.exitcode is None:
            held.end_tasks()
            task.process.join(0.02)
            assert time.monotonic() < begin + 20
        assert time.monotonic() > begin + 0.3
        assert task.process.exitcode == -signal.SIGKILL
        assert held.look() == {}


@pytest.mark.parametrize("why", ["no results", "goes on", "not a worker", "another host", "patient"])
def test_others_are_left_alone(why):
    exchange, patience = why != "no results", 600.0 if why == "patient" else 0.2
    with broker_here(form=Form("rows")) as broker, child(open_one, broker.address, exchange, patience) as task:
        assert task.hear() == "open"
        held = held_of(broker, workers=1 << 22 if why == "not a worker" else None, machine="m" if why == "another host" else None)
        os.kill(task.process.pid, signal.SIGSTOP)
        wait_for(lambda: is_stopped(task.process.pid))
        assert held.look() == {task.process.pid: "task"}
        if why == "goes on":
            os.kill(task.process.pid, signal.SIGCONT)
            wait_for(lambda: not is_stopped(task.process.pid))
        time.sleep(0.3)
        assert held.look() == ({} if why == "goes on" else {task.process.pid: "task"})
        held.end_tasks()
        time.sleep(0.05)
        assert task.process.exitcode is None
        os.kill(task.process.pid, signal.SIGCONT)
        task.pipe.send("end")
        task.join()


def test_what_is_held_is_called_by_its_name():
    with broker_here() as broker, child(open_one, broker.address, True, 9.0) as other:
        os.kill(other.process.pid, signal.SIGSTOP)
        wait_for(lambda: is_stopped(other.process.pid))
        assert held_of(broker).look() == {other.process.pid: "task"}  # before its first row
        assert held_of(broker, trainer=other.process.pid).look() == {other.process.pid: "trainer"}
        os.kill(other.process.pid, signal.SIGCONT)
