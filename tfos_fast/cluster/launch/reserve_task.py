"""What runs inside Spark tasks to bring nodes to life: spawning agents (reserve) and handing ``main`` to them (start)."""

from __future__ import annotations

import contextlib
import inspect
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from tfos_fast.channel import Channel
from tfos_fast.channel.host.processes import how_ended
from tfos_fast.cluster.launch import environment, gpus
from tfos_fast.cluster.launch.unpicklable import culprit
from tfos_fast.cluster.protocol import handover as h
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.identity import host_name, this_process
from tfos_fast.cluster.protocol.keys import ClusterKeys
from tfos_fast.cluster.protocol.roles import FED, Role
from tfos_fast.cluster.spark.engine import Engine
from tfos_fast.cluster.spark.task import executor_pid
from tfos_fast.errors import AddressError, BrokerDied, ClusterError, MainNotPicklable, TfosError

AGENT_START = 60.0
UNFED_MEMORY = ("256k", "64k")  # of a node that Spark does not feed: its agent has a channel for control messages only


def pickle_main(engine: Engine, main: Callable[..., Any], args: Any) -> tuple[bytes, list[Any]]:
    """``(main, args)`` pickled, and the broadcast variables in them."""
    if not callable(main):
        raise MainNotPicklable(f"main must be a function main(args, ctx), not {main!r}")
    name = getattr(main, "__qualname__", repr(main))
    if other := _other_arguments(main):
        raise MainNotPicklable(f"main must be a function main(args, ctx); {name}{other} takes other arguments")
    try:
        return engine.pickle((main, args))
    except Exception as error:
        words, part = culprit(main, args, engine.pickle)
        words = words and f": {words} cannot be pickled"
        way = "Make such objects (sessions, locks, files) inside main, not around it."
        if type(part).__module__.partition(".")[0] == "pyspark":
            way = "It stays in the driver: give main plain values, and give rows to cluster.feed()."
        raise MainNotPicklable(
            f"{name} or its arguments cannot be sent to the executors{words}: {str(error).rstrip('.')}. {way}"
        ) from error


def _other_arguments(main: Callable[..., Any]) -> str:
    """The arguments of a main that ``main(args, ctx)`` cannot call; empty when it can, or when ``main`` does not say."""
    try:
        signature = inspect.signature(main, follow_wrapped=False)  # a decorator may give main what its caller does not
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(None, None)
    except TypeError:
        return str(signature)
    return ""


@dataclass(frozen=True)
class Reservation:
    """The task that spawns the agent of one node; it travels in Spark's closure, and with it the cluster's keys."""

    keys: ClusterKeys
    driver: m.Process
    roles: tuple[Role, ...]  # one for each task
    memory: str
    slot_bytes: str | None
    feeds: dict[str, str]
    log_level: str
    listen: Literal["", "loopback", "network"]  # for remote feeders
    port: str = ""
    release_port: bool = True

    def __call__(self, index: int, _: Iterable[object]) -> Iterator[bytes]:
        """Spawn, and yield the agent's answer (`messages.Ready`). Errors are an answer too, so that their class survives."""
        config = self.config(self.roles[index], this_process(executor_pid()))
        found, source = gpus.look(_given_by_spark(), os.environ)
        yield spawn_agent(msgspec.structs.replace(config, gpus=found, gpu_source=source))

    def config(self, role: Role, executor: m.Process) -> h.AgentConfig:
        """What the agent of a node gets to know."""
        memory, slot_bytes = (self.memory, self.slot_bytes) if role.fed else UNFED_MEMORY
        return h.AgentConfig(
            name=role.name,
            index=role.executor_id,
            token=secrets.token_hex(8),
            memory=memory,
            slot_bytes=slot_bytes,
            feeds=self.feeds,
            listen=self.listen if role.fed else "",
            endpoint=self.keys.endpoint,
            server_public=self.keys.server_public.decode(),
            client_public=self.keys.client_public.decode(),
            client_secret=self.keys.client_secret.decode(),
            driver=self.driver,
            executor=executor,
            log_level=self.log_level,
            port=self.port,
            release_port=self.release_port,
            workers=os.getppid(),
        )


def _given_by_spark() -> list[str] | None:
    """GPUs that Spark has given to this task, None where the application has no such resource."""
    from pyspark import TaskContext

    task = TaskContext.get()
    resource = task.resources().get("gpu") if task is not None else None
    return None if resource is None else list(resource.addresses)


def spawn_agent(config: h.AgentConfig) -> bytes:
    """Spawn an agent; gives its answer."""
    answer, kind, text = spawn("tfos_fast.cluster.agent.agent", config, f"the agent of {config.name}")
    return answer or msgspec.json.encode(h.Ready(kind=kind, text=text))


def spawn(module: str, config: msgspec.Struct, what: str) -> tuple[bytes, str, str]:
    """Spawn a program of ours that detaches itself; its answer, or the kind of an error and its text."""
    # The module path is for finding this package. The keys go through the pipe: command lines and environments can be read.
    env = dict(environment.worker_environment(), PYTHONPATH=os.pathsep.join(environment.worker_path()))
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
        cwd="/",
        start_new_session=True,
    )
    try:
        answer, _ = process.communicate(msgspec.json.encode(config), AGENT_START)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the program itself is a grandchild of that process
        return b"", "ClusterTimeout", f"{what} on {host_name()} did not answer within {AGENT_START:g} s"
    if not answer:
        code = process.returncode
        how = how_ended(128 - code if code > 128 else code)  # it shows the status of the program as a shell does
        return b"", "NodeFailed", f"{what} on {host_name()} ended at its start: it {how}; the executor's stderr may tell"
    return answer, "", ""


@dataclass(frozen=True)
class StartMain:
    """The task that hands ``main`` to those nodes of its executor that have not got it; then, if ``any_executor``, of its host."""

    nodes: tuple[m.NodeInfo, ...]
    cluster_spec: dict[str, list[str]]
    main: bytes  # pickled (main, args)
    broadcasts: tuple[int, ...]
    log_level: str
    any_executor: bool
    tensorboard: tuple[str, str]  # name of the node that runs one, and its folder of logs
    hold: float  # seconds a task stays, so that the job's other tasks go to other executors
    restarts: bool = False  # main may be started again
    feeds: bool = True  # Spark feeds nodes of the roles that train

    def __call__(self, _: int, __: Iterable[object]) -> Iterator[str]:
        """Yield the names of the nodes that were started."""
        begin = time.monotonic()
        executor = executor_pid()
        for node in self.nodes:
            if node.executor.pid != executor and not self.any_executor:
                continue
            try:
                channel = Channel.attach(node.address)
            except AddressError:
                continue  # on another host
            try:
                self.hand(channel, node)
                yield node.name
            except BrokerDied:
                continue  # the driver knows
            finally:
                channel.close()
        time.sleep(max(0.0, self.hold - (time.monotonic() - begin)))

    def hand(self, channel: Channel, node: m.NodeInfo, broadcasts: Mapping[int, Any] | None = None) -> None:
        """Hand ``main`` to a node, with the surroundings of this process; broadcast variables as this Spark worker has them."""
        # Each task slot of an executor comes here: one of them hands over, and only that one writes what may be large.
        me = msgspec.msgpack.encode(this_process())
        if channel.control("prepare", me, timeout=30.0) != h.GO:
            return
        directory = Path(node.directory) / f"main-{secrets.token_hex(4)}"
        try:
            try:
                self._write(directory, node, broadcasts)
            except OSError as error:
                raise ClusterError(
                    f"main cannot be put into {directory} for {node.name} on {node.host}: {error.strerror}. On the executors "
                    "TFOS_RUNTIME_DIR names the folder"
                ) from error
            channel.control("start", msgspec.msgpack.encode(h.StartTrainer(str(directory))), timeout=30.0)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            with contextlib.suppress(TfosError):  # another task may try
                channel.control("leave", me, timeout=30.0)
            raise

    def _write(self, directory: Path, node: m.NodeInfo, broadcasts: Mapping[int, Any] | None) -> None:
        directory.mkdir(mode=0o700)
        environ = environment.worker_environment()
        handover = h.Handover(
            name=node.name,
            job_name=node.job_name,
            task_index=node.task_index,
            executor_id=node.index,
            cluster_spec=self.cluster_spec,
            address=node.address,
            sys_path=environment.worker_path(),
            directory=os.getcwd(),
            environ=environ | gpus.environment(node.gpus, environ),
            spark_files=environment.spark_files(),
            broadcasts=environment.save_broadcasts(self.broadcasts, directory, broadcasts),
            log_level=self.log_level,
            tensorboard=self.tensorboard[1] if self.tensorboard[0] == node.name else "",
            restarts=self.restarts,
            fed=self.feeds and node.job_name in FED,
        )
        (directory / h.MAIN).write_bytes(self.main)
        (directory / h.HANDOVER).write_bytes(h.encode(handover))
