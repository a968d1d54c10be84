"""The coordinator with many nodes: the real one, and simulated agents with real sockets (CURVE over TCP) that say what agents say.

Sockets and messages are the agents' own; what they serve (segments, trainers) is not there, and they run in a few processes of this
machine, which they share with the coordinator: its own work is told by the processor time of its thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from benchmarks.agreement import latency
from benchmarks.machine import machine, show
from benchmarks.nodes import Setting
from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.protocol import messages as m

PROCESSES = 4
TIMEOUT = 120.0


class Run:
    """One coordinator and its nodes.

    Attributes
    ----------
    figures : dict
        What was measured, by name.
    """

    def __init__(self, number: int, seconds: float) -> None:
        self.number = number
        self.seconds = seconds
        self.names = [f"worker:{i}" for i in range(number)]
        self.figures: dict[str, float] = {}
        self.coordinator = Coordinator("127.0.0.1", "127.0.0.1")
        self._processes = [_process() for _ in range(min(PROCESSES, number))]
        time.sleep(1.0)  # their imports

    def tell(self, line: Callable[[int], str]) -> None:
        for i, process in enumerate(self._processes):
            assert process.stdin is not None
            process.stdin.write(line(i) + "\n")
            process.stdin.flush()

    def hear(self) -> list[str]:
        return [process.stdout.readline() for process in self._processes if process.stdout is not None]

    @contextmanager
    def processor(self, name: str) -> Any:
        """Processor time of the coordinator's thread, and of its process with ZeroMQ's I/O thread, as parts of one core."""
        process = psutil.Process()

        def used() -> tuple[float, float]:
            of_thread = next(t for t in process.threads() if t.id == self.coordinator._thread.native_id)
            whole = process.cpu_times()
            return of_thread.user_time + of_thread.system_time, whole.user + whole.system

        begin, before = time.monotonic(), used()
        yield
        took = time.monotonic() - begin
        self.figures[f"{name}: coordinator's thread, % of a core"] = 100 * (used()[0] - before[0]) / took
        self.figures[f"{name}: driver's process, % of a core"] = 100 * (used()[1] - before[1]) / took

    # ---- what is measured ------------------------------------------------------------------------------------------------------

    def rendezvous(self) -> None:
        """From the first socket to the last node known."""
        keys = self.coordinator.keys
        count = len(self._processes)

        def setting(i: int) -> str:
            return msgspec.json.encode(
                Setting(
                    keys.endpoint,
                    keys.server_public.decode(),
                    keys.client_public.decode(),
                    keys.client_secret.decode(),
                    self.names[i::count],
                )
            ).decode()

        begin = time.monotonic()
        self.tell(setting)
        self.coordinator.wait(lambda: len(self.coordinator.nodes) == self.number, TIMEOUT, "the benchmark waits for its nodes")
        self.coordinator.expect({name: "token" for name in self.names})
        self.figures["rendezvous, s"] = time.monotonic() - begin

    def beats(self) -> None:
        """A heartbeat a second of each node, and nothing else."""
        with self.processor("heartbeats"):
            time.sleep(self.seconds)

    def questions(self) -> None:
        """Partitions opened as fast as they are answered, one at a time by each node."""
        begin = time.monotonic()
        with self.processor("partitions"):
            self.tell(lambda i: str(self.seconds))
            answers = sum(map(int, self.hear()))
        self.figures["partitions opened / s (two messages each)"] = answers / (time.monotonic() - begin)
        self.coordinator.end_job("feed1")

    def orders(self) -> None:
        """An order to every node, until each has acknowledged it: an end of epoch."""
        samples = []
        for _ in range(10):
            begin = time.monotonic()
            self.coordinator.order(self.names, m.EndEpoch, TIMEOUT)
            samples.append(time.monotonic() - begin)
        self.figures["order to all and its answers, ms"] = 1000 * statistics.median(samples)

    def end(self) -> None:
        """Every node told to stop, until each has said goodbye."""
        begin = time.monotonic()
        self.coordinator.stop_nodes()
        over = lambda: all(node.gone for node in self.coordinator.nodes.values())  # noqa: E731
        self.coordinator.wait(over, TIMEOUT, "the benchmark waits for goodbyes")
        self.figures["stop, s"] = time.monotonic() - begin

    def close(self) -> None:
        self.coordinator.close()
        for process in self._processes:
            process.kill()
            process.communicate()


def _process() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.nodes"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


#: In this order, each for every number of nodes.
PHASES: tuple[Callable[[Run], None], ...] = (Run.rendezvous, Run.beats, Run.questions, Run.orders, Run.end)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--seconds", type=float, default=5.0, help="for heartbeats, and for partitions")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    options = parser.parse_args()
    facts = machine("pyzmq", "msgspec")
    show(facts)
    table: dict[int, dict[str, float]] = {}
    for number in options.nodes:
        run = Run(number, options.seconds)
        try:
            for phase in PHASES:
                phase(run)
        finally:
            run.close()
        run.figures["agreement on a step, ms"] = 1000 * statistics.median(latency(number))
        table[number] = run.figures
        print(f"{number} nodes measured", flush=True)
    print(f"\n{'nodes':52}" + "".join(f"{number:>10}" for number in table))
    for name in next(iter(table.values())):
        print(f"{name:52}" + "".join(f"{figures[name]:>10.4g}" for figures in table.values()))
    if options.json:
        options.json.write_text(json.dumps({"machine": facts, "nodes": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
