"""What processes of one node hand each other: over pipes, in the agent's private folder (mode 0700), through its private socket."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from tfos_fast.cluster.protocol.messages import NodeInfo, Process


class AgentConfig(msgspec.Struct, frozen=True):
    """What a reserving Spark task writes to the standard input of an agent it spawns."""

    name: str
    index: int
    token: str
    memory: str
    slot_bytes: str | None
    endpoint: str
    server_public: str
    client_public: str
    client_secret: str
    driver: Process
    executor: Process
    log_level: str
    feeds: dict[str, str] = {}  # memory of named feeds
    gpus: tuple[str, ...] = ()
    gpu_source: str = ""
    listen: Literal["", "loopback", "network"] = ""  # for remote feeders
    port: str = ""  # kept for TensorFlow: "9997", "9997-9999", or any
    release_port: bool = True  # TensorFlow may bind it when main starts; else when main says so
    workers: int = 0  # process whose children are the executor's Python workers


class Ready(msgspec.Struct, frozen=True):
    """The agent's one answer on its standard output."""

    node: NodeInfo | None = None
    kind: str = ""  # of the error, when there is no node
    text: str = ""


class RelayConfig(msgspec.Struct, frozen=True):
    """What a Spark task writes to the standard input of a relay it spawns. Public keys only: the relay makes its own secret."""

    client_public: str  # of agents
    operator_public: str  # of the driver
    executor: Process
    host: str  # by which other executors know this one; "" if that is unknown
    towards: tuple[str, int]  # the driver, as far as it has an address
    ports: tuple[int, ...]
    log_level: str


class RelayReady(msgspec.Struct, frozen=True):
    """The relay's one answer on its standard output."""

    agents: str = ""  # where agents connect, tcp://host:port
    operator: str = ""  # where the driver connects
    server_public: str = ""
    where: str = ""  # host and process, in words
    kind: str = ""  # of the error, when there is no relay
    text: str = ""


class StartTrainer(msgspec.Struct, frozen=True):
    """CONTROL ``start``: spawn the trainer on what lies in ``directory``."""

    directory: str


class Handover(msgspec.Struct, frozen=True):
    """What a trainer takes over from the Spark worker: the file ``handover`` in its folder, next to ``main.pkl``."""

    name: str
    job_name: str
    task_index: int
    executor_id: int
    cluster_spec: dict[str, list[str]]
    address: str  # of the node's channel
    sys_path: list[str]
    directory: str
    environ: dict[str, str]
    spark_files: str
    broadcasts: dict[int, str]  # id -> file with the pickled value
    log_level: str
    tensorboard: str = ""  # folder of its logs, at the node that runs it
    restarts: bool = False  # when it has died, the driver is asked whether it is started again
    fed: bool = True  # Spark feeds it


class Report(msgspec.Struct, frozen=True):
    """The trainer's last word: the traceback when ``main`` raised, empty when it returned."""

    summary: str = ""
    remote_traceback: str = ""
    waits: str = ""  # for what the process waits, after ``main`` has returned
    leaving: bool = False  # ``main`` has returned, and its readers are about to leave their feeds; another report comes behind


HANDOVER, MAIN = "handover", "main.pkl"  # names of files
GO = b"go"  # answer to CONTROL ``prepare``: whoever has asked is to write the handover


def encode(handover: Handover) -> bytes:
    """Return what `read_handover` reads.

    Environment variables and paths of Linux are bytes, which need not be UTF-8. Python shows such ones as text with lone
    surrogates, and text of that kind travels as bytes.
    """
    return msgspec.msgpack.encode(_each_text(msgspec.to_builtins(handover), _as_bytes))


def _each_text(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {_each_text(key, change): _each_text(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_each_text(item, change) for item in value]
    return change(value)


def _as_bytes(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return os.fsencode(value)
    return value


def _as_text(value: Any) -> Any:
    return os.fsdecode(value) if isinstance(value, bytes) else value


def read_handover(directory: Path) -> Handover:
    """What a Spark task has put into a trainer's folder.

    Raises
    ------
    OSError, ValueError
        There is none.
    """
    data = msgspec.msgpack.decode((directory / HANDOVER).read_bytes())
    return msgspec.convert(_each_text(data, _as_text), Handover)
