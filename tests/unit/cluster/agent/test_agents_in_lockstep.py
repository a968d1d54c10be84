"""Real agents and a real coordinator in step, each step behind a barrier; threads stand for Spark's tasks and for trainers."""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest

from tests.support.helpers import ended, in_thread
from tfos_fast.channel import Channel
from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.driver.stop_nodes import stop_agents
from tfos_fast.cluster.launch.reserve_task import spawn_agent
from tfos_fast.cluster.protocol import handover as h
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.identity import this_process
from tfos_fast.errors import Elsewhere
from tfos_fast.tensors import DataFeed

WAIT = 20.0
SPEC = (("float32", (250,)), ("int64", ()))
UNEVEN = [2500, 40, 0, 1, 300, 0, 900, 33]  # the first is more than a segment holds
FEW = [700]
pytestmark = pytest.mark.timeout(50)


class Nodes:
    """Agents without a program: this process reads for them."""

    def __init__(self, count):
        self.coordinator = Coordinator("127.0.0.1", "127.0.0.1")
        keys = self.coordinator.keys
        configs = [
            h.AgentConfig(
                f"worker:{i}", i, secrets.token_hex(4), "512k", "64k", keys.endpoint, keys.server_public.decode(),
                keys.client_public.decode(), keys.client_secret.decode(), this_process(), this_process(), "WARNING",
            )
            for i in range(count)
        ]  # fmt: skip
        with ThreadPoolExecutor() as pool:
            answers = [msgspec.json.decode(answer, type=h.Ready) for answer in pool.map(spawn_agent, configs)]
        self.infos = {answer.node.name: answer.node for answer in answers}
        self.coordinator.expect({name: info.token for name, info in self.infos.items()})
        self.coordinator.wait(lambda: len(self.coordinator.nodes) == count, WAIT, "the test waits for the agents")
        self.feeds = {name: DataFeed(Channel.attach(info.address).reader()) for name, info in self.infos.items()}
        self.barrier = threading.Barrier(count, timeout=WAIT)
        self.attempt = 0

    def read(self, name, uneven):
        """An epoch: its steps and rows."""
        steps, rows = 0, []
        for batch in self.feeds[name].batches(32, SPEC, uneven=uneven):
            self.barrier.wait()
            steps += 1
            rows += (batch["c1"] if uneven == "stop" else batch["c1"][batch["sample_weight"] == 1]).tolist()
        return steps, rows

    def task(self, job, number, first, size):
        """What a feed task does, at first at a node that other tasks choose, too."""
        self.attempt += 1
        key, attempt, name = f"{job}/{number}", self.attempt, f"worker:{number % 2 % len(self.infos)}"
        while True:
            channel = Channel.attach(self.infos[name].address)
            try:
                if not size:
                    channel.control("empty", key.encode())
                    return
                writer = channel.writer(stall_timeout=WAIT)
                done = False
                try:
                    writer.open_partition(key, attempt)
                    writer.write_rows((np.full(250, i, np.float32), i) for i in range(first, first + size))
                    writer.end_partition()
                    done = True
                finally:
                    writer.close(wait=done)
                return
            except Elsewhere as other:
                name = str(other)
            finally:
                channel.close()

    def epoch(self, job, sizes, uneven, cores=0):
        """Feed and read an epoch with so many tasks at a time (0: one for each node); steps and rows by node."""
        self.coordinator.begin_epoch(job)
        self.coordinator.count_partitions(len(sizes))
        readers = {name: in_thread(lambda name=name: self.read(name, uneven)) for name in self.infos}
        with ThreadPoolExecutor(cores or len(self.infos)) as pool:
            tasks = [pool.submit(self.task, job, i, sum(sizes[:i]), size) for i, size in enumerate(sizes)]
            for task in tasks:
                task.result(WAIT)
        self.coordinator.finish_epoch()
        self.coordinator.wait(lambda: self.coordinator.steps.over, WAIT, "the test waits for the nodes to agree")
        self.coordinator.end_job(job)
        self.coordinator.order(self.infos, m.EndEpoch, WAIT)
        for thread, _ in readers.values():
            ended(thread)
        return {name: result[0] for name, (_, result) in readers.items()}

    def close(self):
        for feed in self.feeds.values():
            feed.reader.close()
        stop_agents(self.coordinator)
        self.coordinator.close()


@pytest.fixture(params=[2, 4])
def nodes(request):
    it = Nodes(request.param)
    yield it
    it.close()


@pytest.mark.parametrize("uneven", ["stop", "pad"])
def test_nodes_end_at_the_same_step_and_every_row_is_accounted_for(nodes, uneven):
    unused = dict.fromkeys(nodes.infos, 0)
    for epoch, sizes in enumerate([UNEVEN, FEW, UNEVEN]):
        seen = nodes.epoch(f"feed1/{epoch}", sizes, uneven)
        assert not [error for error in seen.values() if isinstance(error, BaseException)], seen
        (steps,) = {steps for steps, _ in seen.values()}
        rows = [row for _, rows in seen.values() for row in rows]
        assert len(rows) == len(set(rows))
        if uneven == "pad":
            assert sorted(rows) == list(range(sum(sizes)))
            assert steps >= max(sizes) / 32
        elif sizes is FEW:
            assert steps == 0
        before, unused = unused, {name: node.had(1).unused for name, node in nodes.coordinator.nodes.items()}
        assert sum(unused.values()) - sum(before.values()) == sum(sizes) - len(rows)


@pytest.mark.parametrize("uneven", ["stop", "pad"])
def test_no_task_holds_the_core_that_another_nodes_rows_wait_for(nodes, uneven):
    sizes = [40, 33, 64, 100, 1, 50, 70, 32]
    seen = nodes.epoch("f/0", sizes, uneven, cores=1)
    assert not [error for error in seen.values() if isinstance(error, BaseException)], seen
    assert len({steps for steps, _ in seen.values()}) == 1
    if uneven == "pad":
        assert sorted(row for _, rows in seen.values() for row in rows) == list(range(sum(sizes)))
