"""The control messages between a broker and its clients, as typed structs (msgpack by msgspec). No payload, nothing executable.

A message is one ZeroMQ frame; the broker's ROUTER socket puts the sender's identity before it. Unknown or malformed messages raise
what is in ``UNREADABLE`` (the types say what a field may hold), and the broker drops their sender.
"""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal

import msgspec

from tfos_fast.channel.codec.fingerprint import Proof
from tfos_fast.channel.codec.layout import MAX_ROWS, MAX_SLOT_BYTES
from tfos_fast.channel.protocol.lockstep import Pace
from tfos_fast.channel.protocol.row_spans import OPEN, Span
from tfos_fast.channel.schema.columns import Schema
from tfos_fast.channel.schema.widen import Declared, Nulls

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Rows = Annotated[int, msgspec.Meta(ge=0, le=MAX_ROWS)]
SlotBytes = Annotated[int, msgspec.Meta(ge=0, le=MAX_SLOT_BYTES)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]
Text = Annotated[str, msgspec.Meta(max_length=1 << 16)]
Pid = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Name = Annotated[str, msgspec.Meta(max_length=128)]
Key = Annotated[str, msgspec.Meta(max_length=1024)]
Slots = Annotated[list[Count], msgspec.Meta(max_length=1 << 20)]
Pool = Literal["input", "output"]
INPUT: Final = "input"
OUTPUT: Final = "output"


class Form(msgspec.Struct, frozen=True):
    """How the reader wants the data: this decides how writers pack it.

    Parameters
    ----------
    mode : str
        ``"rows"`` (items come back as they were fed) or ``"columns"`` (arrays).
    batch : int
        Rows in a batch; slots of column mode are filled with whole batches. 0: not known.
    spec : dict
        Column name -> (dtype name, shape of one row's value or None): declared casts, done while packing.
    nulls : dict
        Column name, or ``"*"`` for every other one -> what becomes of None.
    tensors : bool
        Tensors are to be made: columns of Python objects are refused when rows bring them.
    only : bool
        Columns that the spec does not name are left out of the slots.
    positional : bool
        The spec is a tuple: where the columns have other names, it is for as many columns in their order.
    """

    mode: Literal["rows", "columns"]
    batch: Count = 0
    spec: dict[str, Declared] = {}
    nulls: dict[str, Nulls] = {}
    tensors: bool = False
    only: bool = False
    positional: bool = False

    @property
    def exact(self) -> bool:
        """Whether Python types must come back."""
        return self.mode == "rows"


class Message(msgspec.Struct, tag=True, array_like=True):
    """Base of all messages."""


# ---- any client to the broker ------------------------------------------------------------------------------------------------


class Hello(Message):
    """First message of a client: who it is, so that the broker can watch its process."""

    role: Literal["writer", "reader", "control"]
    pid: Pid
    started: Count


class Bye(Message):
    """The client leaves in order; everything it was granted is free again.

    ``rests``: its connection stays, and its process may say Hello over it once more.
    """

    rests: bool = False


class AskStatus(Message):
    """Ask for the broker's counters."""


class Stalled(Message):
    """A writer gives up: nothing has moved for its stall timeout. Who embeds the broker may end the feed for all."""

    text: Text


class Control(Message):
    """A named request to whoever embeds the broker (the node agent)."""

    name: Name
    body: Annotated[bytes, msgspec.Meta(max_length=1 << 16)]


# ---- writers -----------------------------------------------------------------------------------------------------------------


class OpenPartition(Message):
    """Begin a partition; the answer is Opened, when a reader has declared its form."""

    key: Key
    attempt: Count
    exchange: bool  # results are wanted back
    patience: float = math.inf  # seconds without movement after which it gives up


class Propose(Message):
    """A writer's idea of the columns; the answer is Agreed or Refused."""

    schema: Schema


class Met(Message):
    """A writer's rows have these fields of the spec, which others may lack. There is no answer."""

    names: Annotated[list[Text], msgspec.Meta(max_length=1 << 16)]


class Want(Message):
    """Ask for a slot; it holds until one is granted."""

    pool: Pool


class Publish(Message):
    """A granted slot is filled. With ``want`` it is also a Want for the next one."""

    slot: Count
    stream: Count
    rows: Rows
    capacity: Rows
    schema_id: Count
    want: bool = False
    bytes: SlotBytes = 0
    proof: Count = 0  # total of its rows (see proof.py)


class GiveBack(Message):
    """A granted slot is not needed."""

    slot: Count


class ClosePartition(Message):
    """All rows of the stream are published; what the writer was granted and has not filled is free again."""

    stream: Count
    rows: Count
    blocked: Seconds = 0.0  # that it waited for slots


# ---- the reader --------------------------------------------------------------------------------------------------------------


class OpenReader(Message):
    """Declare the form of the feed."""

    form: Form
    train: bool


class Pin(Message):
    """The reader is about to hand out its first columns: no wider schema from here on. The answer is Pinned."""


class Done(Message):
    """Rows of these slots were taken by the reader's process; these leases ended."""

    taken: Slots
    released: Slots


class Replayed(Message):
    """So many more rows of a replay were taken by the reader's process."""

    rows: Count


class Starving(Message):
    """The reader waits and has nothing: writers should publish what they have.

    ``epoch``: ends of an epoch that have reached it; ``ends``: it stops at each (else it reads on).
    """

    epoch: Count = 0
    ends: bool = False


class Terminate(Message):
    """The reader wants no more rows."""


Handed = Annotated[list[tuple[Count, Count]], msgspec.Meta(max_length=1 << 20)]  # lane, rows


class Commit(Message):
    """A checkpoint of the reader's program covers these rows, beside those of the commits before; answered by Committed.

    Said by a control client of the reader's process: the reader itself may be waiting for rows.

    ``epoch``: ends of an epoch that lie behind it; ``ends``: the reader stops at each, and has done with all rows before.
    """

    epoch: Count
    ends: bool
    handed: Handed


class AskPosition(Message):
    """What `Commit` would cover, in rows of partitions; answered by Position."""

    epoch: Count
    ends: bool
    handed: Handed


class SetPace(Message):
    """The reader goes in step with those of other nodes."""

    pace: Pace


class StepsEnd(Message):
    """The reader has done all steps of the epoch of this number: what still comes of it is not wanted."""

    epoch: Count


class Register(Message):
    """The schema of results that the reader is about to publish; the answer is Agreed."""

    schema: Schema


# ---- the broker's answers ----------------------------------------------------------------------------------------------------


class Welcome(Message):
    """Answer to Hello. With the counters, so that who chooses among brokers need not ask for them."""

    n_slots: int
    status: Status


class FormSet(Message):
    """Answer to OpenReader: the form in force, and how many slots the rows on their way to the reader may take.

    ``recovers``: should it die, another reader goes on behind its last commit.
    """

    form: Form
    quota: int
    recovers: bool = False


class Opened(Message):
    """Answer to OpenPartition: the stream's number, the form, and the rows an earlier attempt has already delivered.

    Only rows before number ``stop`` are wanted.
    """

    stream: int
    skip: int
    form: Form
    proof: Proof = Proof()  # of the rows that are skipped
    stop: int = OPEN


class Agreed(Message):
    """The schema in force, by number."""

    schema_id: int
    schema: Schema


class Refused(Message):
    """The request cannot be met; ``kind`` is the name of a class in tfos_fast.errors."""

    kind: str
    text: str


class Granted(Message):
    """Slots for who wanted one: one, or more while they abound."""

    slots: list[int]
    pool: str


class Flush(Message):
    """Publish what you have: the reader starves."""


class Yield(Message):
    """From now on (or, with ``on`` false, no longer) who waits for a slot or for the reader ends its partition early."""

    on: bool


class Deliver(Message):
    """A filled slot for its reader. The schema comes along the first time its number is used.

    ``granted`` slots are in writers' hands: the reader must leave at least one more in motion. With ``answered`` each row gets a
    result.
    """

    slot: int
    stream: int
    rows: int
    capacity: int
    schema_id: int
    schema: Schema | None
    granted: int = 0
    answered: bool = False


class StreamEnd(Message):
    """Nothing more comes of this stream. Where results are wanted back: how many other streams are still open."""

    stream: int
    open: int = 0


class Settle(Message):
    """No more rows of this epoch are in sight: make batches of what there is."""


class Steps(Message):
    """All nodes can do so many steps of the epoch of this number; ``end``: and no more."""

    epoch: int
    steps: int
    end: bool


class EpochEnd(Message):
    """Everything of this epoch was delivered before this."""


class Keep(Message):
    """Forget the rows that are kept; with a ``kind``, keep those delivered from here on, in so many bytes (0: as seems good)."""

    kind: Literal["", "memory", "disk"]
    limit: int


class Replay(Message):
    """Deal out the kept rows once more: as they came, or with a seed in an order that it determines."""

    seed: int | None


class FeedEnd(Message):
    """Nothing more comes; with ``kind`` and ``text`` as in Failed, because somebody left before the end."""

    kind: str = ""
    text: str = ""


class Pinned(Message):
    """The schema that all later columns have."""

    schema_id: int
    schema: Schema


class StreamTaken(Message):
    """Every row of the stream was taken by the reader's process."""

    stream: int


class Shut(Message):
    """A newer attempt at the stream's partition has taken its place, or its reader is gone: what is still published is dropped."""

    stream: int
    text: str
    kind: str = "Fenced"  # name of a class in tfos_fast.errors


class Committed(Message):
    """Answer to Commit: should the reader die now, these rows will not come again."""


class Position(Message):
    """Answer to AskPosition: epoch -> partition -> spans of its rows."""

    epoch: int  # in which the reader is
    rows: dict[int, dict[str, list[Span]]]


class Terminated(Message):
    """The reader wants no more rows: end this partition and later ones quickly."""


class Failed(Message):
    """The feed is broken; ``kind`` is the name of a class in tfos_fast.errors."""

    kind: str
    text: str
    node: str = ""
    host: str = ""
    remote_traceback: str = ""
    signal: int = 0


class Status(Message):
    """The broker's counters; ``progress`` grows whenever a row or slot moves."""

    progress: int
    rows_published: int
    rows_taken: int
    slots: dict[str, int]
    writers: int
    waiting: int
    reader: bool
    train: bool
    terminated: bool
    ended: bool


class ControlAnswer(Message):
    """Answer to Control."""

    body: bytes


Request = (
    Hello | Bye | AskStatus | Stalled | Control | OpenPartition | Propose | Met | Want | Publish | GiveBack | ClosePartition
    | OpenReader | Pin | Done | Replayed | Starving | Terminate | Register | SetPace | StepsEnd | Commit | AskPosition
)  # fmt: skip
Answer = (
    Welcome | FormSet | Opened | Agreed | Refused | Granted | Flush | Yield | Deliver | StreamEnd | Settle | Steps | EpochEnd
    | FeedEnd | Keep | Replay | Pinned | StreamTaken | Shut | Terminated | Failed | Status | ControlAnswer | Committed | Position
)  # fmt: skip

#: What a decoder raises for bytes that are no message: ill-typed ones, text that is no UTF-8, nesting without end.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
