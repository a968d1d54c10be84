"""The node agent: the channel's broker and the trainer's parent, one process per node (``python -m
tfos_fast.cluster.agent.agent``).

A reserving Spark task spawns it; it lives in a session of its own, outside the task. It ends when the coordinator says so, when the
driver or the executor dies, and takes its trainer along. Everything happens in the broker's single-threaded loop on the main
thread, which also spawns the trainer: the trainer's parent-death signal follows the thread that spawned it.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from tfos_fast.channel.broker.broker import Broker
from tfos_fast.channel.codec.fingerprint import Proof
from tfos_fast.channel.host.descriptors import make_room
from tfos_fast.channel.host.processes import adopt_orphans, alive, open_pidfd, remove_own_directories
from tfos_fast.channel.host.segment import Segment
from tfos_fast.channel.protocol.row_spans import OPEN
from tfos_fast.cluster.agent.driver_link import DriverLink, tell_end
from tfos_fast.cluster.agent.feeds import NamedFeeds
from tfos_fast.cluster.agent.gateway_door import Door
from tfos_fast.cluster.agent.stopped import StoppedProcesses
from tfos_fast.cluster.agent.supervisor import Supervisor, watch_once
from tfos_fast.cluster.agent.tensorboard import TensorBoard
from tfos_fast.cluster.host.detach import detach
from tfos_fast.cluster.host.ports import HeldPort, parse_ports
from tfos_fast.cluster.protocol import handover as h
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.feed_keys import LOCAL_KEYS, feed_number, feed_of
from tfos_fast.cluster.protocol.identity import address_towards, host_name, machine_id, this_process
from tfos_fast.cluster.protocol.task_news import stage_of
from tfos_fast.errors import ClusterError, TfosError

log = logging.getLogger("tfos_fast.agent")


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

    named: NamedFeeds
    link: DriverLink

    def __init__(self, config: h.AgentConfig) -> None:
        # Sockets of an agent that comes to nothing are closed here: the garbage collector may take a context before its sockets,
        # and would then wait for them for ever.
        with ExitStack() as undo:
            self._begin(config, undo)
            undo.pop_all()

    def _begin(self, config: h.AgentConfig, undo: ExitStack) -> None:
        self.config = config
        self.name = config.name
        self.host = host_name()
        where = config.endpoint.removeprefix("tcp://").rpartition(":")
        self.ip = address_towards(where[0], int(where[2]))
        wanted = config.port or os.environ.get("TENSORFLOW_PORT", "")
        self._port = HeldPort(
            self.ip,
            parse_ports(wanted, "tensorflow_port" if config.port else "TENSORFLOW_PORT on the executors"),
            "tensorflow_port, or TENSORFLOW_PORT on the executors",
        )
        endpoint = f"{self.ip}:{self._port.port}"
        segment = Segment.create(config.memory, config.slot_bytes)
        self.broker = Broker(segment, on_open=self._on_open)
        undo.callback(self.broker.close)
        self.broker.on_control = self._on_control
        self.broker.on_terminated = lambda asked: self._state(m.FeedTerminated(asked))
        self.broker.on_partition_done = self._on_partition_done
        self.trainer = Supervisor(self.name, self.host, self.broker, lambda: self.named, self._state, self._own_children)
        self.broker.explain_death = self.trainer.explain_death
        self.broker.ended_well = self.trainer.ended_well
        self.broker.on_stalled = self._on_stalled

        self.named = NamedFeeds(
            config,
            self.broker,
            self._on_open,
            self._on_partition_done,
            self.trainer,
            self._tell,
        )
        self.stopped = StoppedProcesses(config, self.named, lambda: self.trainer.pid)
        self.door = Door(config, self.broker, self.ip)
        undo.callback(self.door.close)
        self._board: TensorBoard | None = None
        self._preparing: m.Process | None = None  # the task that hands main over
        self._bye = m.AgentBye()
        self._ends: dict[str, int] = {}  # feed -> number of the last EndEpoch
        self._last_order = -1  # number of the last Keep or Replay
        self._epoch_ended = False  # and not all of its rows were taken when that was last looked at
        self._leaves: list[m.ControlMessage] = []  # what the life that is over has left, until the next one begins
        self._replayed = -1  # number of the last Replay whose rows were all taken
        self._infers = -1  # the last stage of an inference that the driver was told of
        me = this_process()
        self.info = m.NodeInfo(
            config.name, config.index, config.token, self.host, self.broker.address, endpoint,
            str(self.broker.directory), me, config.executor, self.door.endpoint, self.door.public_key,
            config.gpus, config.gpu_source,
        )  # fmt: skip
        hello = m.AgentHello(self.name, config.token, self.host, me)
        self.link = DriverLink(config, self.broker, hello, lambda: self.named.demands.values(), self._on_message, self._give_up)
        undo.callback(self.link.close)
        self._watch_processes()
        self.broker.feed.number_of = feed_number
        self.broker.feed.steps.alone = False
        self.broker.feed.steps.on_pace = lambda pace: self._state(m.Join(pace))
        self.broker.on_turn = self._tell_steps
        self.broker.every(1.0, self._tick)

    # ---- the driver ----------------------------------------------------------------------------------------------------------

    def _tell(self, message: m.ControlMessage) -> None:
        self.link.send(message)

    def _state(self, message: m.ControlMessage) -> None:
        self.link.state(message)

    def _on_message(self, message: m.ToAgent) -> None:
        match message:
            case m.Fence():
                reached, proof = self.named.broker(feed_of(message.key)).fence(message.key, message.attempt)
                self.link.send(m.FenceDone(message.key, message.attempt, reached, proof))
            case m.SettleSteps():
                self.broker.feed.steps.settle(message.epoch, message.turn)
            case m.StepsAgreed():
                self.broker.feed.steps.agree(message.epoch, message.steps, message.end)
            case m.AgentWelcome():
                self.broker.feed.steps.changed = True  # what was told last may be lost
            case m.EndEpoch():
                if message.request > self._ends.get(message.feed, -1):  # it is asked again after a reconnect
                    self._ends[message.feed] = message.request
                    self.named.end_epoch(message.feed)
                    self._epoch_ended = self._epoch_ended or not message.feed
                self._acknowledge(message.request)
            case m.KeepEpoch():
                if not self._again(message.request):
                    self.broker.feed.keep(message.kind, message.limit)
                self._acknowledge(message.request)
            case m.ReplayEpoch():
                # Asked a second time, after a reconnect, it is not done twice; the answer may have been lost, too.
                if not self._again(message.request):
                    self._replay(message)
                elif self._replayed == message.request:
                    self._acknowledge(message.request)
            case m.EndFeed():
                self.named.end_feed(message.feed)
                self._acknowledge(message.request)
            case m.YieldTasks():
                self.broker.feed.make_yield(message.on)
                if not message.on:
                    self.named.repeat()
                self._acknowledge(message.request)
            case m.HaltTrainer():
                self._halt(message)
            case m.BeginTrainer():
                if message.life == self.trainer.life and self._leaves:
                    self._leaves = []
                    self.broker.feed.base = message.epoch
                    self.trainer.begin()
                self._acknowledge(message.request)
            case m.GiveUp():
                self.trainer.give_up(message.text)
                self._acknowledge(message.request)
            case m.From():
                self.broker.feed.base = message.epoch
                self._acknowledge(message.request)
            case m.Metrics():
                if self._board is not None:
                    self._board.tell(message.nodes)
            case m.Stop():
                self._stop("the driver said so")

    def _halt(self, order: m.HaltTrainer) -> None:
        if order.life == self.trainer.life:
            self.trainer.halt()
            self.link.begin_anew()
            loss = self.named.restart()
            keys = sorted({*loss.frontier, *loss.rows})
            for at in range(0, len(keys), m.MOST_AT_ONCE):
                some = keys[at : at + m.MOST_AT_ONCE]
                frontier = {key: loss.frontier[key] for key in some if key in loss.frontier}
                self._leaves.append(m.Lost(order.life, frontier, {key: loss.rows[key] for key in some if key in loss.rows}))
            self._leaves.append(m.Halted(order.life, loss.epoch, self.broker.feed.rows_taken, self.named.newest))
        for message in self._leaves:
            self.link.send(message)
        self._acknowledge(order.request)

    def _again(self, request: int) -> bool:
        again, self._last_order = self._last_order == request, request
        return again

    def _replay(self, message: m.ReplayEpoch) -> None:
        def done() -> None:
            self._replayed = message.request
            self._acknowledge(message.request)

        self.broker.feed.replay(message.seed, done)

    def _acknowledge(self, request: int) -> None:
        self.link.send(m.Ack(request, self.broker.feed.rows_taken, self.named.newest))

    def _tell_steps(self) -> None:
        """Once a turn of the loop, however many slots came in it."""
        feed = self.broker.feed
        steps = feed.steps
        if self._epoch_ended and feed.rows_taken == feed.rows_published:
            self._epoch_ended = False
            self._tick()  # the driver may wait for just this
        if steps.changed:
            steps.changed = False
            self.link.send(m.StepsReady(steps.epoch, steps.ready, steps.turn))

    def _tick(self) -> None:
        status = self.broker.status()
        self.link.send(
            m.Beat(
                status["progress"] + self.named.progress, status["rows_published"], status["rows_taken"],
                status["writers"], status["waiting"], status["reader"], self.named.totals, self.named.newest,
                self.stopped.look(),
            )
        )  # fmt: skip
        self.stopped.end_tasks()
        self.trainer.look()
        self.link.tick()

    def _on_stalled(self, text: str) -> None:
        """A feed task waited in vain. Others would, too, and each further attempt of Spark's."""
        if not self.trainer.ended:
            words = f"{self.name} on {self.host}: {text}{self.stopped.words()}"
            self.trainer.end(m.Failure("StallTimeout", words, self.name, self.host))

    # ---- deaths of others ----------------------------------------------------------------------------------------------------

    def _watch_processes(self) -> None:
        machine = machine_id()
        executor, driver = self.config.executor, self.config.driver
        for process, on_death in ((executor, self._executor_died), (driver, lambda: self._give_up("the driver is gone"))):
            if process.machine != machine:
                continue
            fd = open_pidfd(process.pid, process.started)
            if fd is None:
                raise ClusterError(f"process {process.pid}, which {self.name} belongs to, is gone")
            watch_once(self.broker, fd, on_death)

    def _executor_died(self) -> None:
        text = f"{self.name} on {self.host}: its Spark executor (process {self.config.executor.pid}) died"
        if self.trainer.returned and not self.trainer.ended:
            self.trainer.end(None, f"{text} after main had returned; what main has done counts")
        elif not self.trainer.ended:
            self.trainer.end(m.Failure("NodeLost", text, self.name, self.host, "", 0, self.trainer.log_tail))
        self._stop("its executor died")

    def _stop(self, why: str) -> None:
        log.info("%s ends: %s", self.name, why)
        self.broker.stop()

    def _give_up(self, why: str) -> None:
        """End although nobody has asked for it: what the driver may still wait for does not come."""
        self._bye = m.AgentBye(f"ended: {why}")
        self._stop(why)

    # ---- the feed ------------------------------------------------------------------------------------------------------------

    def _on_open(self, key: str, attempt: int, reply: Callable[..., None]) -> None:
        if key.startswith(LOCAL_KEYS):
            reply(0)
            if (stage := stage_of(key)) is not None and stage != self._infers:
                self._infers = stage
                self.link.send(m.Infers(stage))
            return

        steps = self.broker.feed.steps

        def answered(skip: int = 0, proof: Proof | None = None, stop: int = OPEN, *, error: str = "", kind: str = "Fenced") -> None:
            if not error and not feed_of(key):
                steps.reopen()
            reply(skip, proof or Proof(), stop, error=error, kind=kind)

        self.link.open(key, attempt, answered)

    def _on_partition_done(self, key: str, attempt: int, rows: int, proof: Proof) -> None:
        if not key.startswith(LOCAL_KEYS):
            self.link.send(m.PartitionDone(key, attempt, rows, proof))

    # ---- the trainer ---------------------------------------------------------------------------------------------------------

    def _on_control(self, name: str, body: bytes) -> bytes:
        if name == "feed":
            return self.named.broker(body.decode(errors="replace")).address.encode()
        if name == "hold":
            return self._hold()
        if name == "release_port":
            return self._release_port()
        if name == "empty":
            self.link.send(m.Empty(body.decode(errors="replace")))
            return b""
        if name in ("prepare", "leave"):
            return self._prepare(msgspec.msgpack.decode(body, type=m.Process), leaves=name == "leave")
        if name == "unfit":
            job, kind, text = [*body.decode(errors="replace").split("\n", 2), "", ""][:3]
            self.link.send(m.Unfit(job, kind, text))
            return b""
        if name != "start":
            raise ClusterError(f"{self.name} does not know what {name!r} is")
        if self.trainer.started:
            return b"runs"
        start = msgspec.msgpack.decode(body, type=h.StartTrainer)
        try:
            directory = Path(start.directory).resolve()
            if self.broker.directory.resolve() not in directory.parents:
                raise ClusterError(f"{directory} is not in the folder of {self.name}")
            handover = h.read_handover(directory)
        except (OSError, ValueError, msgspec.MsgspecError) as error:  # no such folder, no name of one, no handover in it
            raise ClusterError(f"{self.name} cannot be started on {start.directory!r:.200}: {error}") from error
        if handover.tensorboard and self._board is None:
            self._show(handover)
        if self.config.release_port:
            self._port.share()
        if handover.restarts:
            self.named.recover()
        self.trainer.spawn(directory, asks=handover.restarts)
        return b"started"

    def _prepare(self, process: m.Process, *, leaves: bool) -> bytes:
        """A task is about to hand ``main`` over, or cannot: one at a time, as long as it lives."""
        before = self._preparing
        if leaves:
            self._preparing = None if before == process else before
            return b""
        if self.trainer.started or (before not in (None, process) and before is not None and alive(before.pid, before.started)):
            return b"no"
        self._preparing = process
        return h.GO

    def _own_children(self) -> set[int]:
        """The processes that this one has started, besides the trainer."""
        board = self._board.pid if self._board is not None else None
        return {pid for pid in (board, self.door.gateway) if pid is not None}

    def _show(self, handover: h.Handover) -> None:
        board = self._board = TensorBoard(handover, self.ip)
        watch_once(self.broker, board.pidfd, board.died)
        self._state(m.TensorBoardRuns(board.url))

    def _hold(self) -> bytes:
        self.broker.feed.close()
        self._state(m.Holding())
        return b""

    def _release_port(self) -> bytes:
        self._port.close()
        return b""

    # ---- life ----------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the end."""

        def drain(source: socket.socket) -> None:
            source.recv(64)

        wake, waker = socket.socketpair()
        waker.setblocking(False)
        signal.signal(signal.SIGTERM, lambda *_: self._give_up("SIGTERM"))
        # poll() restarts after a signal: the wake-up pipe makes it return.
        signal.set_wakeup_fd(waker.fileno())
        self.broker.watch(wake, lambda: drain(wake))
        gc.collect()
        gc.freeze()  # the modules stay: a tenth of the agent's time went by in looking through them again and again
        self.broker.run()

    def failed(self, error: Exception) -> None:
        """Note what this agent met; ``close`` tells the driver."""
        text = "".join(traceback.format_exception_only(error)).strip()
        self._bye = m.AgentBye(
            m.clip(f"failed: {text}", m.MAX_TEXT), m.clip("".join(traceback.format_exception(error)), m.MAX_TRACEBACK)
        )

    def close(self) -> None:
        """End the trainer, say goodbye, remove the folder."""
        self.trainer.kill()
        self.door.close()
        self.link.close(msgspec.structs.replace(self._bye, status=self.trainer.status, totals=self.named.totals))
        if self._board is not None:
            self._board.close()
        self.broker.close()
        self._port.close()


def main() -> None:
    """Read the configuration from standard input, detach, answer on standard output, serve."""
    config = msgspec.json.decode(sys.stdin.buffer.read(), type=h.AgentConfig)
    answer = detach(lambda status: tell_end(config, status) if status else None)
    logging.basicConfig(
        level=config.log_level, format=f"%(asctime)s %(levelname)s tfos_fast {config.name} %(message)s", stream=sys.stderr
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which then stops us
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    adopt_orphans()  # of the trainer
    make_room()
    agent = None
    try:
        agent = Agent(config)
        ready = h.Ready(agent.info)
    except TfosError as error:
        ready = h.Ready(kind=type(error).__name__, text=m.clip(str(error), m.MAX_TEXT))
    except Exception as error:
        log.exception("the agent of %s could not start", config.name)
        text = "".join(traceback.format_exception_only(error)).strip()
        words = f"the agent of {config.name} on {host_name()} could not start: {text}"
        ready = h.Ready(kind="NodeFailed", text=m.clip(words, m.MAX_TEXT))
    answer(ready)
    if agent is None:
        remove_own_directories()
        return
    try:
        agent.run()
    except Exception as error:
        log.exception("the agent of %s failed", config.name)
        agent.failed(error)
        raise
    finally:
        agent.close()


if __name__ == "__main__":
    main()
