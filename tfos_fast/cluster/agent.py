"""The node agent: the channel's broker and the trainer's parent, one process per node (``python -m tfos_fast.cluster.agent``).

A reserving Spark task spawns it; it lives in a session of its own, outside the task. It ends when the coordinator says so, when the
driver or the executor dies, and takes its trainer along. Everything happens in the broker's single-threaded loop on the main
thread, which also spawns the trainer: the trainer's parent-death signal follows the thread that spawned it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from tfos_fast.channel import messages as channel_messages
from tfos_fast.channel.broker import Broker
from tfos_fast.channel.processes import open_pidfd
from tfos_fast.channel.segment import Segment
from tfos_fast.cluster import messages as m
from tfos_fast.cluster.child import Child
from tfos_fast.cluster.machine import address_towards, host_name, machine_id, this_process
from tfos_fast.cluster.named import NamedFeeds, feed_of
from tfos_fast.errors import ClusterError, TfosError

log = logging.getLogger("tfos_fast.agent")

DRIVER_GRACE = 5.0  # seconds without a connection to the driver, after which it is taken for dead
FIRST_CONTACT = 30.0
LAST_WORDS = 0.05  # a trainer's last messages may still be in the broker's socket when the kernel reports its death
DYING = 10.0  # a trainer whose main has raised may take so long to end
LOCAL_KEYS = "infer/"  # partitions whose attempts do not share rows: their results go back to the attempt


class Agent:
    """One node.

    Parameters
    ----------
    config : AgentConfig

    Raises
    ------
    NotEnoughMemory
        The segment does not fit.
    """

    def __init__(self, config: m.AgentConfig) -> None:
        self.config = config
        self.name = config.name
        self.host = host_name()
        segment = Segment.create(config.memory, config.slot_bytes)
        self.broker = Broker(segment, on_open=self._on_open)
        self.broker.on_control = self._on_control
        self.broker.on_terminated = lambda asked: self._state(m.Terminated(asked))
        self.broker.on_partition_done = self._on_partition_done
        self.broker.explain_death = self._explain_death

        where = config.endpoint.removeprefix("tcp://").rpartition(":")
        self.ip = address_towards(where[0], int(where[2]))
        # Kept until the trainer starts, so that no other program takes the port that cluster_spec promises.
        self._port = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._port.bind((self.ip, 0))
        endpoint = f"{self.ip}:{self._port.getsockname()[1]}"

        self.named = NamedFeeds(config, self.broker, self._on_open, self._on_partition_done, self._explain_death, self._send)
        self._child: Child | None = None
        self._ended = False
        self._states: list[m.Message] = []
        self._pending: dict[int, tuple[str, int, Callable[..., None]]] = {}
        self._requests = 0
        self._last_order = -1  # number of the last Keep or Replay
        self._replayed = -1  # number of the last Replay whose rows were all taken
        self._driver_deadline: float | None = time.monotonic() + FIRST_CONTACT
        me = this_process()
        self.info = m.NodeInfo(
            config.name, config.index, config.token, self.host, self.broker.address, endpoint,
            str(self.broker.directory), me, config.executor,
        )  # fmt: skip
        self._connect()
        self._watch_processes()
        self.broker.every(1.0, self._tick)

    # ---- the driver ----------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 1000
        self._socket.curve_serverkey = self.config.server_public.encode()
        self._socket.curve_publickey = self.config.client_public.encode()
        self._socket.curve_secretkey = self.config.client_secret.encode()
        self._socket.routing_id = f"{self.name}/{self.config.token}".encode()
        self._socket.heartbeat_ivl = 2000
        self._socket.heartbeat_timeout = 10000
        self._socket.reconnect_ivl = 200
        self._socket.reconnect_ivl_max = 2000
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        )
        self.broker.watch(self._monitor, self._on_monitor)
        self.broker.watch(self._socket, self._on_messages)
        self._socket.connect(self.config.endpoint)

    def _on_monitor(self) -> None:
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._driver_deadline = None
                self._greet()
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._stop("the coordinator refused the keys")
            elif self._driver_deadline is None:
                log.warning("%s lost its connection to the driver", self.name)
                self._driver_deadline = time.monotonic() + DRIVER_GRACE

    def _greet(self) -> None:
        self._send(m.Hello(self.name, self.config.token, self.host, self.info.agent))
        for state in self._states:
            self._send(state)
        for demand in self.named.demands.values():
            self._send(demand)
        for request, (key, attempt, _) in self._pending.items():
            self._send(m.OpenPartition(request, key, attempt))

    def _send(self, message: m.Message) -> None:
        # HWM reached means that the driver has been away for long; the deadline ends this agent soon.
        with contextlib.suppress(zmq.Again):
            self._socket.send(m.encode(message), zmq.NOBLOCK)

    def _state(self, message: m.Message) -> None:
        """Send what the coordinator must know, again after each reconnect."""
        self._states.append(message)
        self._send(message)

    def _on_messages(self) -> None:
        while True:
            try:
                message = m.decode_to_agent(self._socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            self._on_message(message)

    def _on_message(self, message: m.ToAgent) -> None:
        match message:
            case m.Opened():
                # An answer that comes twice (it was asked again after a reconnect) finds nobody waiting.
                if waiting := self._pending.pop(message.request, None):
                    waiting[2](message.skip)
            case m.Refused():
                if waiting := self._pending.pop(message.request, None):
                    waiting[2](error=message.text)
            case m.Fence():
                watermark = self.named.broker(feed_of(message.key)).fence(message.key, message.attempt)
                self._send(m.Fenced(message.key, message.attempt, watermark))
            case m.EndEpoch():
                self.named.end_epoch(message.feed)
                self._acknowledge(message.request)
            case m.Keep():
                if not self._again(message.request):
                    self.broker.feed.keep(message.kind, message.limit)
                self._acknowledge(message.request)
            case m.Replay():
                # Asked a second time, after a reconnect, it is not done twice; the answer may have been lost, too.
                if not self._again(message.request):
                    self._replay(message)
                elif self._replayed == message.request:
                    self._acknowledge(message.request)
            case m.EndFeed():
                self.named.end_feed(message.feed)
                self._acknowledge(message.request)
            case m.Yield():
                self.broker.feed.make_yield(message.on)
                if not message.on:
                    self.named.repeat()
                self._acknowledge(message.request)
            case m.Stop():
                self._stop("the driver said so")
        self.broker.flush()

    def _again(self, request: int) -> bool:
        again, self._last_order = self._last_order == request, request
        return again

    def _replay(self, message: m.Replay) -> None:
        def done() -> None:
            self._replayed = message.request
            self._acknowledge(message.request)

        self.broker.feed.replay(message.seed, done)

    def _acknowledge(self, request: int) -> None:
        status = self.broker.status()
        self._send(m.Ack(request, status["rows_taken"], status["rows_published"] - status["rows_taken"]))

    def _tick(self) -> None:
        status = self.broker.status()
        self._send(
            m.Beat(
                status["progress"] + self.named.progress, status["rows_published"], status["rows_taken"],
                status["writers"], status["waiting"], status["reader"],
            )
        )  # fmt: skip
        if self._driver_deadline is not None and time.monotonic() > self._driver_deadline:
            self._stop("the driver is gone")

    # ---- deaths of others ----------------------------------------------------------------------------------------------------

    def _watch_processes(self) -> None:
        machine = machine_id()
        executor, driver = self.config.executor, self.config.driver
        for process, on_death in ((executor, self._executor_died), (driver, lambda: self._stop("the driver is gone"))):
            if process.machine != machine:
                continue
            fd = open_pidfd(process.pid, process.started)
            if fd is None:
                raise ClusterError(f"process {process.pid}, which {self.name} belongs to, is gone")
            self.broker.watch(fd, self._once(fd, on_death))

    def _once(self, fd: int, call: Callable[[], None]) -> Callable[[], None]:
        def callback() -> None:
            self.broker.unwatch(fd)
            os.close(fd)
            call()

        return callback

    def _executor_died(self) -> None:
        text = f"{self.name} on {self.host}: its Spark executor (process {self.config.executor.pid}) died"
        if not self._ended:
            self._end(m.Failure("NodeKilled", text, self.name, self.host))
        self._stop("its executor died")

    def _stop(self, why: str) -> None:
        log.info("%s ends: %s", self.name, why)
        self.broker.stop()

    # ---- the feed ------------------------------------------------------------------------------------------------------------

    def _on_open(self, key: str, attempt: int, reply: Callable[..., None]) -> None:
        if key.startswith(LOCAL_KEYS):
            reply(0)
            return
        self._requests += 1
        self._pending[self._requests] = (key, attempt, reply)
        self._send(m.OpenPartition(self._requests, key, attempt))

    def _on_partition_done(self, key: str, attempt: int, rows: int) -> None:
        if not key.startswith(LOCAL_KEYS):
            self._send(m.PartitionDone(key, attempt, rows))

    # ---- the trainer ---------------------------------------------------------------------------------------------------------

    def _on_control(self, name: str, body: bytes) -> bytes:
        if name == "feed":
            return self.named.broker(body.decode()).address.encode()
        if name != "start":
            raise ClusterError(f"{self.name} does not know what {name!r} is")
        if self._child is not None:
            return b"runs"
        start = msgspec.msgpack.decode(body, type=m.Start)
        directory = Path(start.directory).resolve()
        if self.broker.directory.resolve() not in directory.parents:
            raise ClusterError(f"{directory} is not in the folder of {self.name}")
        self._spawn(directory)
        return b"started"

    def _spawn(self, directory: Path) -> None:
        self._port.close()
        child = self._child = Child(self.name, self.host, directory)
        self.broker.watch(child.pidfd, self._once(child.pidfd, self._trainer_died))
        self.broker.watch(child.report_fd, self._once(child.report_fd, self._trainer_reports))
        self._state(m.Started(this_process(child.pid)))

    def _trainer_reports(self) -> None:
        """The pipe says that the report is written (or that the trainer is gone, of which the pidfd speaks)."""
        assert self._child is not None
        failure = self._child.failure(dead=False)
        if failure is not None and not self._ended:
            self._end(failure)
            deadline = time.monotonic() + DYING
            self.broker.every(1.0, lambda: self._kill() if time.monotonic() > deadline else None)

    def _trainer_died(self) -> None:
        assert self._child is not None
        failure = self._child.failure(dead=True)
        if self._ended:
            return
        if failure is not None:
            self._end(failure)
            return
        due = time.monotonic() + LAST_WORDS
        self.broker.every(LAST_WORDS, lambda: self._end(None) if time.monotonic() >= due and not self._ended else None)

    def _end(self, failure: m.Failure | None) -> None:
        self._ended = True
        status = self.broker.status()
        taken, left = status["rows_taken"], status["rows_published"] - status["rows_taken"]
        if failure is not None:
            for broker in self.named.all():
                broker.fail(
                    failure.summary, failure.remote_traceback, failure.node, failure.host, kind=failure.kind, signal=failure.signal
                )
        else:
            for broker in self.named.all():
                broker.terminate()
        self._state(m.Ended(failure, taken, left))

    def _explain_death(self, pid: int) -> channel_messages.Failed | None:
        """Words for a dead reader: if it was the trainer, its end is told by signal or traceback."""
        failure = self._child.failure(dead=True) if self._child is not None and pid == self._child.pid else None
        if failure is None:
            return None
        return channel_messages.Failed(
            failure.kind, failure.summary, failure.node, failure.host, failure.remote_traceback, failure.signal
        )

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()

    # ---- life ----------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the end."""

        def drain(source: socket.socket) -> None:
            source.recv(64)

        wake, waker = socket.socketpair()
        waker.setblocking(False)
        signal.signal(signal.SIGTERM, lambda *_: self._stop("SIGTERM"))
        # poll() restarts after a signal: the wake-up pipe makes it return.
        signal.set_wakeup_fd(waker.fileno())
        self.broker.watch(wake, lambda: drain(wake))
        self.broker.run()

    def close(self) -> None:
        """End the trainer, say goodbye, remove the folder."""
        self._kill()
        self._send(m.Bye())
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close()
        self._context.term()
        self.broker.close()


def main() -> None:
    """Detach, read the configuration from standard input, answer on standard output, serve."""
    # The Spark worker that spawned us is reused and would keep us as a zombie: let init inherit us instead.
    if os.fork():
        os._exit(0)
    config = msgspec.json.decode(sys.stdin.buffer.read(), type=m.AgentConfig)
    logging.basicConfig(
        level=config.log_level, format=f"%(asctime)s %(levelname)s tfos_fast {config.name} %(message)s", stream=sys.stderr
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which then stops us
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    agent = None
    try:
        agent = Agent(config)
        ready = m.Ready(agent.info)
    except TfosError as error:
        ready = m.Ready(kind=type(error).__name__, text=str(error))
    except OSError as error:
        ready = m.Ready(kind="ClusterError", text=f"the agent of {config.name} could not start: {error!r}")
    sys.stdout.buffer.write(msgspec.json.encode(ready))
    sys.stdout.buffer.flush()
    os.dup2(2, 1)  # the end of our answer; prints of main go to the executor's log
    if agent is None:
        return
    try:
        agent.run()
    except Exception:
        log.exception("the agent of %s failed", config.name)
        raise
    finally:
        agent.close()


if __name__ == "__main__":
    main()
