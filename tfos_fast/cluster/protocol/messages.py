"""The control messages between the coordinator in the driver and the node agents, as typed structs (msgpack by msgspec).

They travel over TCP, encrypted and authenticated by CURVE. They never carry rows, and never anything that is executed: the user's
``main`` comes to a node only inside a Spark task. Every field is bounded, so that no message makes the coordinator keep more than
it should; :func:`clip` cuts what a program has written. An agent's messages that tell its state (`AgentHello`, `Started`, `Ended`,
`Returned`, `FeedTerminated`) are sent again after a reconnect, so the coordinator takes each of them any number of times.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tfos_fast.channel.codec.fingerprint import Proof
from tfos_fast.channel.protocol.lockstep import Pace
from tfos_fast.channel.protocol.messages import Count, Key, Name, Pid
from tfos_fast.channel.protocol.row_spans import OPEN

MAX_TEXT = 10_000  # characters of an error's summary; a node adds its name
MAX_NAMES = 500  # of the names of threads and processes
MAX_TRACEBACK = 100_000  # a recursion's traceback would fill the message
STOPPED = "is stopped (SIGSTOP, or a debugger)"

Text = Annotated[str, msgspec.Meta(max_length=2 * MAX_TEXT)]
LongText = Annotated[str, msgspec.Meta(max_length=2 * MAX_TRACEBACK)]
HostName = Annotated[str, msgspec.Meta(max_length=256)]


def clip(text: str, most: int) -> str:
    """A program's words as they fit into a message: without lone surrogates, and shortened in the middle."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= most else f"{text[: most // 2]}\n...\n{text[-most // 2 :]}"


PARENT = "/parent"  # behind the routing id of an agent: its parent speaks


def routing_id(name: str, token: str) -> bytes:
    """By which the coordinator's socket knows an agent: who has not got its token cannot speak for it."""
    return f"{name}/{token}".encode()


class ControlMessage(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all messages."""


class Process(msgspec.Struct, frozen=True, array_like=True):
    """A process that cannot be confused with a later one of the same id.

    ``machine`` is the kernel's boot id with the process id namespace: only where it is equal does ``pid`` mean anything.
    """

    pid: Pid
    started: Count
    machine: HostName


class NodeInfo(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one node since it was reserved."""

    name: str  # <job name>:<number in its role>
    index: int  # among all nodes
    token: str  # of this very agent process, should a reservation have been tried twice
    host: str
    address: str  # of its channel
    endpoint: str  # host:port kept free for TensorFlow's server
    directory: str
    agent: Process
    executor: Process  # a ps on the driver has the driver
    feed_endpoint: str = ""  # host:port at which remote feeders are taken in; empty: nowhere
    feed_key: str = ""  # the CURVE key that answers there
    gpus: tuple[str, ...] = ()  # that it found; in the driver: that its trainer sees
    gpu_source: str = ""

    @property
    def job_name(self) -> str:
        """Its role."""
        return self.name.partition(":")[0]

    @property
    def task_index(self) -> int:
        """Its number in its role."""
        return int(self.name.partition(":")[2])


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why a node failed. ``kind`` is the name of a class in tfos_fast.errors."""

    kind: Name
    summary: Text
    node: Name
    host: HostName
    remote_traceback: LongText = ""
    signal: Count = 0
    log_tail: LongText = ""  # the last lines that the trainer printed


class Totals(msgspec.Struct, frozen=True, array_like=True):
    """What a node was fed until now."""

    bytes: Count = 0  # filled shared memory
    starved: float = 0.0  # seconds that its reader had nothing
    blocked: float = 0.0  # seconds that its writers waited for a slot, added up
    offered: Count = 0  # rows of named feeds that its trainer took, over all its lives


class Counters(msgspec.Struct, frozen=True, array_like=True):
    """What a node was fed until now, for TensorBoard."""

    rows: Count = 0  # that its trainer took
    totals: Totals = Totals()


class Fed(msgspec.Struct, frozen=True, array_like=True):
    """What a node had of the newest feed. A restart of its trainer takes away what comes again."""

    number: Count = 0  # of the feed; 0: none yet
    taken: Count = 0  # rows that its trainer took
    left: Count = 0  # published to it, and not taken (yet)
    unused: Count = 0  # taken, and in no step that all nodes could do


MOST_AT_ONCE = 1000  # partitions in a message
Reached = tuple[Annotated[int, msgspec.Meta(ge=-1, le=2**62)], Count]  # an attempt (-1: none), and the row that comes next
Spans = Annotated[list[tuple[Count, Count]], msgspec.Meta(max_length=1000)]


# ---- agent to coordinator ----------------------------------------------------------------------------------------------------


class AgentHello(ControlMessage, frozen=True):
    """First message on every connection."""

    name: Name
    token: Name
    host: HostName
    agent: Process


class Started(ControlMessage, frozen=True):
    """The trainer runs. ``life``: how often it was started before."""

    trainer: Process
    life: Count = 0


class Fell(ControlMessage, frozen=True):
    """The trainer is dead, and may be started again: answered by `HaltTrainer` or `GiveUp`."""

    life: Count
    failure: Failure


class Lost(ControlMessage, frozen=True):
    """Partitions that a life leaves, some at a time; `Halted` is the last word of them."""

    life: Count
    frontier: Annotated[dict[Key, Reached], msgspec.Meta(max_length=MOST_AT_ONCE)]  # of the attempts opened last
    rows: Annotated[dict[Key, Spans], msgspec.Meta(max_length=MOST_AT_ONCE)]  # key -> rows that are to come again


class Halted(ControlMessage, frozen=True):
    """The node's trainer is dead, and its feed has begun anew. ``epoch``: that of the last commit."""

    life: Count
    epoch: Count
    rows_taken: Count = 0  # by all lives, without what comes again
    fed: Fed = Fed()


class Ended(ControlMessage, frozen=True):
    """The trainer is gone: with a failure, or because ``main`` returned."""

    failure: Failure | None
    rows_taken: Count
    fed: Fed = Fed()
    note: Text = ""  # how its process ended badly, although what it has done counts


class Returned(ControlMessage, frozen=True):
    """The trainer's ``main`` has returned, and its process has not ended yet. ``waits``: for what it waits."""

    life: Count
    waits: Annotated[str, msgspec.Meta(max_length=2 * MAX_NAMES)] = ""


class FeedTerminated(ControlMessage, frozen=True):
    """The trainer wants no more rows: it has asked for the end (``terminate()``), or left the feed because ``main`` returned."""

    asked: bool


class TensorBoardRuns(ControlMessage, frozen=True):
    """TensorBoard runs at this node, before the trainer does."""

    url: Annotated[str, msgspec.Meta(max_length=1024)]


class Holding(ControlMessage, frozen=True):
    """The trainer serves others until it is stopped: it takes no rows, and nobody waits for its end."""


class Beat(ControlMessage, frozen=True):
    """The node's counters, once a second."""

    progress: Count
    rows_published: Count
    rows_taken: Count
    writers: Count
    waiting: Count  # writers that wait for a slot
    reader: bool
    totals: Totals = Totals()
    fed: Fed = Fed()
    stopped: Annotated[dict[Pid, Literal["trainer", "task", "executor"]], msgspec.Meta(max_length=4096)] = {}  # by SIGSTOP, say


class ClaimPartition(ControlMessage, frozen=True):
    """A writer on this node wants to begin a partition; answered by `ClaimGranted` or `ClaimRefused`."""

    request: Count
    key: Key
    attempt: Count


class FenceDone(ControlMessage, frozen=True):
    """Answer to `Fence`: how far the last attempt has come that was opened at this node."""

    key: Key
    attempt: Count  # as in the question
    reached: Reached
    proof: Proof = Proof()


class PartitionDone(ControlMessage, frozen=True):
    """All rows of a partition are published."""

    key: Key
    attempt: Count
    rows: Count
    proof: Proof = Proof()


class Empty(ControlMessage, frozen=True):
    """A feed task found its partition empty."""

    key: Key


class Unfit(ControlMessage, frozen=True):
    """A feed task met rows that cannot be fed; ``kind`` is the name of a class in tfos_fast.errors."""

    job: Key
    kind: Name
    text: Text


class Infers(ControlMessage, frozen=True):
    """The first task of a stage of an inference has come to this node."""

    stage: Count


class Join(ControlMessage, frozen=True):
    """The node's program goes in step."""

    pace: Pace


class StepsReady(ControlMessage, frozen=True):
    """The rows published to this node are good for so many steps; ``turn`` as in the last `SettleSteps`, 0 when rows may come."""

    epoch: Count
    steps: Count
    turn: Count


class Ack(ControlMessage, frozen=True):
    """Answer to `EndEpoch` and `EndFeed`, with the node's counters at that moment."""

    request: Count
    rows_taken: Count
    fed: Fed = Fed()


LEFT = -1


class Demand(ControlMessage, frozen=True):
    """The reader of a named feed waits for rows of its epoch of this number. ``ends``: it stops at the end of each.

    With the number ``LEFT`` it wants none any more.
    """

    feed: Name
    epoch: Annotated[int, msgspec.Meta(ge=LEFT, le=2**62)]
    ends: bool


class AgentBye(ControlMessage, frozen=True):
    """The agent ends, and its trainer has ended; ``why`` says what the agent met, when nobody told it to end."""

    why: Text = ""
    remote_traceback: LongText = ""
    status: int | None = None  # exit status of the trainer
    totals: Totals = Totals()


class Died(ControlMessage, frozen=True):
    """Said by the agent's parent: its process has ended, and this is its exit status, negative when a signal ended it.

    Over a connection of its own, since taking the agent's over could lose what that has said last.
    """

    name: Name
    token: Name
    status: Annotated[int, msgspec.Meta(ge=-1024, le=1024)]


# ---- coordinator to agent ----------------------------------------------------------------------------------------------------


class AgentWelcome(ControlMessage, frozen=True):
    """Answer to `AgentHello`."""


class ClaimGranted(ControlMessage, frozen=True):
    """The attempt may write, and skips this many rows."""

    request: int
    skip: int
    proof: Proof = Proof()  # of the rows that are skipped
    stop: int = OPEN  # of the rows that are wanted


class ClaimRefused(ControlMessage, frozen=True):
    """The attempt may not write. ``kind`` is the name of a class in tfos_fast.errors."""

    request: int
    text: str
    kind: str = "Fenced"


class Fence(ControlMessage, frozen=True):
    """Shut out attempts at the partition that are older than this one."""

    key: str
    attempt: int


class SettleSteps(ControlMessage, frozen=True):
    """No more rows are in sight for the node in this epoch; answered by `StepsReady` with this turn."""

    epoch: int
    turn: int


class StepsAgreed(ControlMessage, frozen=True):
    """All nodes can do so many steps of the epoch; ``end``: and no more."""

    epoch: int
    steps: int
    end: bool


class EndEpoch(ControlMessage, frozen=True):
    """Put an end-of-epoch mark behind everything that is queued."""

    request: int
    feed: str = ""


class KeepEpoch(ControlMessage, frozen=True):
    """Keep what is fed from here on (``kind`` memory or disk), in so many bytes (0: as seems good), or forget it ("")."""

    request: int
    kind: Literal["", "memory", "disk"]
    limit: int


class ReplayEpoch(ControlMessage, frozen=True):
    """The trainer gets what it keeps once more; acknowledged when it has taken every row."""

    request: int
    seed: int | None  # of the order; None: as it was fed


class EndFeed(ControlMessage, frozen=True):
    """Put the end of the feed behind everything that is queued."""

    request: int
    feed: str = ""


class YieldTasks(ControlMessage, frozen=True):
    """Feed tasks of the default feed that only wait are to end early, or no longer."""

    request: int
    on: bool


class HaltTrainer(ControlMessage, frozen=True):
    """End what is left of this life, begin the feed anew, and tell what is lost; a life that is over tells it again."""

    request: int
    life: int


class BeginTrainer(ControlMessage, frozen=True):
    """Start the trainer again: this is its life of this number, and its first epoch that of this number."""

    request: int
    life: int
    epoch: int


class GiveUp(ControlMessage, frozen=True):
    """The trainer that fell is not started again: what has happened is a failure."""

    request: int
    text: str


class From(ControlMessage, frozen=True):
    """The number of the epoch that comes first."""

    request: int
    epoch: int


class Metrics(ControlMessage, frozen=True):
    """Counters of all nodes that are fed, for the agent that runs TensorBoard."""

    nodes: dict[str, Counters]


class Stop(ControlMessage, frozen=True):
    """End now: the trainer too, if it still runs."""


Told = AgentHello | Started | Fell | Ended | Returned | FeedTerminated | TensorBoardRuns | Holding  # of the node's state
Rows = ClaimPartition | FenceDone | PartitionDone | Ack | Demand | Empty | Unfit | Infers | Join | StepsReady | Lost | Halted
FromAgent = Told | Beat | Rows | AgentBye | Died
Order = EndEpoch | KeepEpoch | ReplayEpoch | EndFeed | YieldTasks | HaltTrainer | BeginTrainer | GiveUp | From
ToAgent = AgentWelcome | ClaimGranted | ClaimRefused | Fence | Order | Stop | SettleSteps | StepsAgreed | Metrics

encode = msgspec.msgpack.Encoder().encode
decode_from_agent = msgspec.msgpack.Decoder(FromAgent).decode
decode_to_agent = msgspec.msgpack.Decoder(ToAgent).decode
