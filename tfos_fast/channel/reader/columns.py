"""Column mode: slots are taken from the inbox until the assembler can cut a batch, under a schema that the first batch fixes."""

from __future__ import annotations

import time
from collections.abc import Collection

from tfos_fast.channel.epochs.replay import Drawn, Piece
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.reader.acks import Acks
from tfos_fast.channel.reader.assemble import Assembler, Slot
from tfos_fast.channel.reader.batch import AnyBatch, Batch
from tfos_fast.channel.reader.cut import Cutter
from tfos_fast.channel.reader.inbox import LINGER_S, Inbox
from tfos_fast.channel.reader.position import Trail
from tfos_fast.channel.schema.columns import Schema
from tfos_fast.channel.schema.widen import Declared, apply_spec, by_position, leave_out
from tfos_fast.channel.transport.local import LocalConnection
from tfos_fast.errors import FormError

_KEEP_FREE = 2  # slots that a hoarding reader must leave in motion
Spec = dict[str, Declared]


class ColumnReader:
    """Makes batches of columns of what comes.

    Parameters
    ----------
    connection : LocalConnection
        The reader's.
    inbox : Inbox
    acks : Acks
    trail : Trail
        Is told of ends of an epoch.
    train : bool

    Attributes
    ----------
    assembler : Assembler
    schema : Schema or None
        What batches look like; known once the first rows came.
    spec : dict
        What the program declared of the columns.
    only : bool
        It wants no others.
    positional : bool
        What it declared is a tuple; see ``Form``.
    hoarded : int
        Slots whose batches were copied, because the program keeps too many.
    settled : bool
        A mark said that nothing more is in sight, to who takes runs.
    """

    def __init__(self, connection: LocalConnection, inbox: Inbox, acks: Acks, trail: Trail, *, train: bool) -> None:
        self._conn = connection
        self._inbox = inbox
        self._acks = acks
        self._trail = trail
        self._train = train
        self.assembler = Assembler()
        self.schema: Schema | None = None
        self.spec: Spec = {}
        self.only = False
        self.positional = False
        self._every = False  # a later call wants all columns
        self.hoarded = 0
        self.settled = False
        self._current: int | Piece | None = None  # the slot that the assembler cuts
        self._early: set[int] = set()  # slots told as taken before the schema was fixed

    def want(self, names: Collection[str] | None) -> None:
        """A later call wants these columns, or all (None), where the first spec has decided which are packed.

        Raises
        ------
        FormError
            It left some of them out. Of all columns that is known when the first rows have come.
        """
        self._every = self._every or names is None
        self._check_wanted([name for name in names or () if name not in self.spec])

    def _check_wanted(self, more: Collection[str] = ()) -> None:
        if self._every and self.schema is not None:
            more = [*more, *(column.name for column in self.schema.columns if column.kind == "unused")]
        if more:
            raise FormError(
                f"this feed's first spec decided which columns are packed: {', '.join(self.spec)}. A later call wants "
                f"{', '.join(more)}, too; name all columns in the first spec"
            )

    def next(self, n: int, epoch_ends: bool, deadline: float | None, most: int, runs: bool) -> AnyBatch | None:
        """See :meth:`Reader.next_batch <tfos_fast.channel.reader.reader.Reader.next_batch>`. The deadline is a point in time.

        The schema was fixed before, or an epoch without rows has ended.
        """
        inbox, assembler = self._inbox, self.assembler
        quiet_since: float | None = None
        while not inbox.leaving:
            batch = assembler.run() if runs else assembler.take(n, most)
            self._retire()
            if batch is not None:
                return batch
            if not assembler.wants_slot:
                continue
            impatient = not self._train and assembler.waiting_rows > 0
            item = inbox.next(wait=deadline is None and not impatient)
            if item is None:
                now = time.monotonic()
                quiet_since = quiet_since or now
                if impatient and (inbox.all_ended or now - quiet_since > LINGER_S):
                    return assembler.rest(n)
                if deadline is not None and now >= deadline:
                    return Batch({}, 0) if epoch_ends else None
                inbox.pause(LINGER_S if deadline is None else min(LINGER_S if impatient else 0.1, deadline - now))
            elif isinstance(item, m.Deliver | Drawn):
                quiet_since = None
                if self.schema is None:  # an epoch without rows came before
                    inbox.put_back(item)
                    if not self.pin(n, deadline):
                        return self.late(epoch_ends)
                else:
                    self._push(item)
            elif isinstance(item, Piece):
                self._push(item)
            elif isinstance(item, m.StreamEnd):
                assembler.end_stream(item.stream)
            elif isinstance(item, m.Settle) and runs:
                self.settled = True
                return Batch({}, 0)
            elif isinstance(item, m.Settle):
                rest = assembler.rest(n)
                if rest is not None:
                    inbox.put_back(item)
                    return rest
            elif isinstance(item, m.FeedEnd) or epoch_ends:
                rest = assembler.rest(n)
                if rest is not None:
                    inbox.put_back(item)  # once more, until nothing is left
                elif isinstance(item, m.EpochEnd):
                    self._trail.end_epoch()
                return rest
            elif isinstance(item, m.EpochEnd):
                self._trail.end_epoch()
        return None

    def pin(self, n: int, deadline: float | None = None) -> bool:
        """Fix the schema once the first batch lies in the inbox; False when the deadline came first.

        Not at the first slot: a partition's first batches may hold one row, and a column that begins with an int may go on with
        floats. Each such change of the columns takes a slot, as does each end of a partition: where these fill half of all slots
        before there is a batch, their few rows are copied out. In inference a batch is what has come when nothing more comes.
        """
        inbox = self._inbox
        while True:
            have = len(inbox.items)
            slots = [item for item in inbox.items if isinstance(item, m.Deliver)]
            rows = sum(item.rows for item in inbox.items if isinstance(item, m.Deliver | Drawn))
            if inbox.leaving:
                return False
            if rows and rows >= n:
                break
            if len(slots) >= max(1, self._acks.quota // 2):
                inbox.draw()
                self._early.clear()
                continue
            if any(isinstance(item, m.Settle | m.EpochEnd | m.FeedEnd) for item in inbox.items):
                if rows:
                    break
                return True
            if rows and not self._train:
                inbox.pause(LINGER_S)
                if len(inbox.items) == have:
                    break
                continue
            # Fewer rows than a batch may be all that a feed has: they are here, so the feed must not wait for us to cut them.
            early = [item.slot for item in slots if item.slot not in self._early]
            if early:
                self._early.update(early)
                self._conn.send(m.Done(early, []))
            if deadline is None:
                inbox.wait(have)
            elif time.monotonic() >= deadline:
                return False
            else:
                inbox.pause(min(0.1, deadline - time.monotonic()))
        self._conn.send(m.Pin())
        pinned = self._conn.ask(m.Pinned, "the broker to fix the schema").schema
        # Writers that came before the spec was known packed without it; what they packed is cast here.
        spec = by_position(self.spec, pinned.names) if self.positional else self.spec
        schema = apply_spec(pinned, spec) if spec else pinned
        self.schema = leave_out(schema, spec) if self.only else schema
        self._check_wanted()
        return True

    def late(self, epoch_ends: bool) -> Batch | None:
        """What is handed out when the deadline came before the schema."""
        return Batch({}, 0) if epoch_ends and not self._inbox.leaving else None

    def drop(self) -> None:
        """Take what is left of the slot and in the carry, for nobody."""
        if self._current is not None:
            self._acks.finish(self._current)
        self.clear()

    def clear(self) -> None:
        """Forget the slot and the carry; the schema stays."""
        self._current = None
        self.assembler.clear()

    def _push(self, item: m.Deliver | Piece) -> None:
        self._acks.collect()
        where, lease = self._inbox.open(item)
        if isinstance(item, Piece):
            self._current, alias, first = item, True, item.start
        else:
            # Leases never stop progress: who keeps all but two slots gets copies from then on. Slots in the hands of writers that
            # wait for their rows do not move either, so one more than these must stay.
            alias = len(self._acks.leased) <= self._acks.quota - max(_KEEP_FREE, item.granted + 1)
            self._current, first = item.slot, 0
            if not alias:
                self.hoarded += 1
        assert self.schema is not None
        cut = Cutter(where, lease, first + item.rows, self.schema)
        self.assembler.push(Slot(item.stream, first + item.rows, cut, alias, cut.grain, first))

    def _retire(self) -> None:
        if self.assembler.wants_slot and self._current is not None:
            slot, self._current = self._current, None
            self._acks.finish(slot)
