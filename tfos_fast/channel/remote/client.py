"""A writer's connection to a broker on another host: the same messages over TCP, encrypted and authenticated by CURVE.

A gateway on the broker's host takes them (:mod:`~tfos_fast.channel.remote.gateway`). What a local writer finds in shared memory, a
remote one has in private buffers: as many as it was granted slots, each laid out as a slot is and sent with the message that
publishes it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from tfos_fast import errors
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.remote import wire
from tfos_fast.channel.remote.check_slot import check_schema, check_slot
from tfos_fast.channel.schema.columns import Schema
from tfos_fast.channel.schema.kinds import check_mode
from tfos_fast.channel.transport import curve
from tfos_fast.channel.transport.connection import Connection, Role


@dataclass(frozen=True)
class RemoteAddress:
    """Where a gateway listens, and the keys that let one in. It is sent only inside Spark's closures.

    Parameters
    ----------
    endpoint : str
        ``host:port``.
    server_public, client_public, client_secret : bytes
        CURVE keys in Z85.
    feed : str
        Of the named feed; empty for the default one.
    node : str
        What messages call the other side.
    """

    endpoint: str
    server_public: bytes
    client_public: bytes
    client_secret: bytes = field(repr=False)
    feed: str = ""
    node: str = "the node"

    def __str__(self) -> str:
        return f"{self.node} at {self.endpoint}"


class Buffers:
    """Stand-ins for the slots that a remote writer was granted or delivered.

    ``window`` gives the same buffer for a slot until it is sent or dropped; buffers are used again when ZeroMQ has sent them.
    """

    def __init__(self, slot_bytes: int, n_slots: int) -> None:
        self.slot_bytes, self.n_slots = slot_bytes, n_slots
        self._held: dict[int, mmap.mmap] = {}
        self._free: list[mmap.mmap] = []
        self._sending: list[tuple[mmap.mmap, zmq.MessageTracker]] = []

    def window(self, slot: int) -> mmap.mmap:
        """The buffer of a slot."""
        if slot not in self._held:
            for pair in [pair for pair in self._sending if pair[1].done]:
                self._sending.remove(pair)
                self._free.append(pair[0])
            self._held[slot] = self._free.pop() if self._free else mmap.mmap(-1, self.slot_bytes)
        return self._held[slot]

    def sent(self, slot: int, tracker: zmq.MessageTracker) -> None:
        """The buffer of this slot is on its way."""
        self._sending.append((self._held.pop(slot), tracker))

    def drop(self, slot: int) -> None:
        """What lies in the buffer of this slot, if it has one, is not needed any more."""
        buffer = self._held.pop(slot, None)
        if buffer is not None:
            self._free.append(buffer)

    def drop_all(self) -> None:
        """As ``drop``, for every slot."""
        self._free += self._held.values()
        self._held.clear()

    def close(self) -> None:
        """Forget the buffers. Their memory goes with whoever still uses it."""
        self._held.clear()
        self._free.clear()
        self._sending.clear()


class RemoteConnection(Connection):
    """Attach to a broker through the gateway of its host.

    Parameters
    ----------
    address : RemoteAddress
    role, handler, stall_timeout
        As for :class:`~tfos_fast.channel.transport.connection.Connection`; a reader is always local.

    Raises
    ------
    AddressError
        Nobody answers there, or the keys are refused.
    """

    segment: Buffers

    def __init__(self, address: RemoteAddress, role: Role, handler: Callable[[Any], None] | None, *, stall_timeout: float) -> None:
        super().__init__(role, handler, stall_timeout=stall_timeout)
        self.broker = str(address)
        self.segment = Buffers(0, 0)
        self._reached = False
        self._asked = self._answered = 0  # questions for the broker's counters; they are answered in order
        self._owed = 0  # when so many are answered, all that was published has arrived
        self._schemas: dict[int, Schema] = {}
        socket = self._socket
        curve.as_client(socket, address.server_public, address.client_public, address.client_secret)
        socket.heartbeat_ivl = wire.HEARTBEAT_MS
        socket.heartbeat_timeout = socket.heartbeat_ttl = wire.SILENCE_MS
        socket.connect_timeout = socket.handshake_ivl = wire.CONNECT_MS
        socket.reconnect_ivl = -1  # the gateway forgets who is gone: a new connection would be that of somebody else
        socket.maxmsgsize = wire.MAX_CONTROL
        self._monitor = socket.get_monitor_socket(
            zmq.EVENT_CLOSED
            | zmq.EVENT_DISCONNECTED
            | zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        )
        socket.connect(f"tcp://{address.endpoint}")
        self._watch(self._monitor)
        try:
            self.send(wire.Attach(address.feed))
            found = self.ask(wire.Attached, f"the gateway of {address}", timeout=60.0)
            self.segment = Buffers(found.slot_bytes, found.n_slots)
            self._greet()
        except BaseException as error:
            self.close(abort=True)
            if isinstance(error, errors.BrokerDied) and not self._reached:
                raise errors.AddressError(str(error)) from None
            raise

    def _lost(self) -> str | None:
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._reached = True
            elif self._reached:
                return f"the connection to {self.broker} broke: its agent or its host is gone, or the network between"
            elif event in (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
                return f"{self.broker} refused the keys: it belongs to another cluster"
            else:
                return f"no connection to {self.broker}: it has ended, a firewall stands between, or it belongs to another cluster"
        return None

    def _put(self, message: m.Message) -> None:
        try:
            if isinstance(message, m.Publish):
                self._publish(message)
                return
            if isinstance(message, m.Done):
                for slot in message.released:
                    self.segment.drop(slot)
            elif isinstance(message, m.GiveBack):
                self.segment.drop(message.slot)
            elif isinstance(message, m.ClosePartition):
                self.segment.drop_all()
                self._owed = self._asked + 1
            elif isinstance(message, m.AskStatus):
                self._asked += 1
            super()._put(message)
        except zmq.Again:  # the connection is gone, and with it the queue
            self._bury(f"the connection to {self.broker} broke")

    def _publish(self, message: m.Publish) -> None:
        self._owed = self._asked + 1
        slot = self.segment.window(message.slot)
        where = wire.slot_layout(self._schemas[message.schema_id], message.capacity, self.segment.slot_bytes)
        parts = wire.extents(where, slot, message.rows)
        tracker = self._socket.send_multipart(wire.frames(message, parts, slot), zmq.NOBLOCK, copy=False, track=True)
        assert tracker is not None  # because of track=True
        self.segment.sent(message.slot, tracker)

    def _get(self) -> Any:
        while True:
            first, *payload = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            try:
                message = wire.decode_from_gateway(first.buffer)
                if isinstance(message, wire.Still):
                    continue
                if isinstance(message, m.Agreed):
                    self._schemas[message.schema_id] = message.schema
                elif isinstance(message, m.Deliver):
                    self._take(message, payload)
                elif isinstance(message, m.Status):
                    self._answered += 1
            except (wire.WireError, *m.UNREADABLE) as error:
                self._bury(f"{self.broker} breaks the protocol ({error})")
            return message

    def _take(self, message: m.Deliver, payload: list[zmq.Frame]) -> None:
        if message.schema is not None:
            self._schemas[message.schema_id] = message.schema
        schema = self._schemas.get(message.schema_id)
        if schema is None or not 0 <= message.slot < self.segment.n_slots or not 0 <= message.rows <= message.capacity:
            raise wire.WireError(f"slot {message.slot} with {message.rows} rows of schema {message.schema_id}")
        check_mode(schema, exact=True)  # results are rows
        slot = self.segment.window(message.slot)
        check_schema(schema)
        try:
            where = wire.slot_layout(schema, message.capacity, self.segment.slot_bytes)
        except errors.TfosError as error:
            raise wire.WireError(str(error)) from None
        sent = wire.unpack([frame.buffer for frame in payload], slot, self.segment.slot_bytes)
        check_slot(where, slot, message.rows, sent)

    def close(self, *, abort: bool = False, told: bool = False) -> None:
        """As of every connection; what was published is at the broker when this returns.

        Raises
        ------
        BrokerDied, NodeFailed, ...
            It may not be.
        """
        # A local broker finds a message in its socket, whatever becomes of its sender; here it may still be in this process.
        waits = self._answered < self._owed and not (abort or self._closed)
        try:
            if waits and self.failure is None and os.getpid() == self._pid:
                self.send(m.AskStatus())
                self.wait(lambda: True if self._answered >= self._owed else None, "the last rows to arrive", timeout=60.0)
        finally:
            super().close(abort=abort)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            super().close()  # no waiting in a garbage collection

    def _release(self) -> None:
        super()._release()
        self._socket.disable_monitor()
        self._monitor.close(0)
