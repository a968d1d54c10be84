"""Real agents of a real coordinator, without Spark."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from tests.support.helpers import agent_config
from tfos_fast.channel import Channel
from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.driver.stop_nodes import stop_agents
from tfos_fast.cluster.launch.reserve_task import spawn_agent
from tfos_fast.cluster.protocol import handover as h
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.identity import this_process
from tfos_fast.cluster.spark import closure

WAIT = 30.0


def reserve_agent(coordinator, index, executor):
    """What a new agent answers."""
    return msgspec.json.decode(spawn_agent(agent_config(coordinator, index, executor)), type=h.Ready)


class Nodes:
    """Two nodes that run a main; this test process stands for driver and executor."""

    def __init__(self, main, args):
        self.coordinator = Coordinator("127.0.0.1", "127.0.0.1")
        self.infos = [self._reserve(i) for i in range(2)]
        self.coordinator.expect({info.name: info.token for info in self.infos})
        self.writers = []
        self.channels = [Channel.attach(info.address) for info in self.infos]
        for info, channel in zip(self.infos, self.channels, strict=True):
            self._start(info, channel, main, args)

    def _reserve(self, index):
        ready = reserve_agent(self.coordinator, index, this_process())
        assert ready.node is not None, ready.text
        return ready.node

    def _start(self, info, channel, main, args):
        folder = Path(info.directory) / "main"
        folder.mkdir()
        handover = h.Handover(
            info.name, "worker", info.index, info.index, {"worker": ["a:1", "b:2"]}, info.address,
            sys.path, os.getcwd(), dict(os.environ), os.getcwd(), {}, "WARNING",
        )  # fmt: skip
        (folder / h.MAIN).write_bytes(closure.dumps((main, args)))
        (folder / h.HANDOVER).write_bytes(msgspec.msgpack.encode(handover))
        assert channel.control("start", msgspec.msgpack.encode(h.StartTrainer(str(folder)))) == b"started"
        assert channel.control("start", msgspec.msgpack.encode(h.StartTrainer(str(folder)))) == b"runs"

    def wait(self, condition, what):
        self.coordinator.wait(condition, WAIT, f"the test waits for {what}")

    def published(self, job, partitions, rows):
        """The ledger comes to have so much; word of the last partition may still be on its way."""
        self.wait(lambda: self.coordinator.ledger.published(job) == (partitions, rows), f"{rows} rows in the ledger")

    def state(self, index):
        return self.coordinator.nodes[f"worker:{index}"]

    def end_feed(self):
        self.coordinator.order(["worker:0", "worker:1"], m.EndFeed, WAIT)
        self.wait(lambda: all(node.ended for node in self.coordinator.nodes.values()), "the mains")

    def writer(self, index):
        self.writers.append(self.channels[index].writer(stall_timeout=WAIT))
        return self.writers[-1]

    def close(self):
        for writer in self.writers:
            writer.close()
        for channel in self.channels:
            channel.close()
        if self.coordinator._thread.is_alive():
            stop_agents(self.coordinator)
            self.coordinator.close()
