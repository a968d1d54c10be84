"""The gateway: a process beside a broker that takes remote writers in (``python -m tfos_fast.channel.remote.gateway``).

To the broker each remote writer is a local one: the gateway holds a connection to the broker for each, and relays its messages. So
slots keep their one owner, and whatever the broker does to writers (credits, fencing, errors, watermarks) holds for remote ones.
Payload is copied into the granted slot before the message that publishes it is passed on; a slot of results is sent from shared
memory, and is free when the remote writer says so.

It is a process of its own because its work is bytes: ZeroMQ's threads decrypt, this one copies, and the broker's loop never waits
for either. What a remote writer may say is typed, bounded and checked here, before it comes near shared memory. A writer whose
connection is gone has left: its slots are free at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from typing import Any

import msgspec
import zmq
from zmq.utils import z85

from tfos_fast.channel.broker.schema_agreement import charge
from tfos_fast.channel.host.descriptors import Descriptors
from tfos_fast.channel.host.processes import open_pidfd, started
from tfos_fast.channel.host.segment import Segment
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.address import Address
from tfos_fast.channel.protocol.failures import to_failed
from tfos_fast.channel.remote import wire
from tfos_fast.channel.remote.check_slot import check_schema, check_slot
from tfos_fast.channel.schema.columns import Schema
from tfos_fast.channel.transport import curve
from tfos_fast.channel.transport.local import LocalConnection
from tfos_fast.errors import AddressError, SchemaMismatch, TfosError

log = logging.getLogger("tfos_fast.gateway")

PROBE = 0.5  # seconds between two looks whether each client is still there
_MOST_UNREAD = 1 << 18  # messages that may wait for a client that does not read
_MOST_UNHEARD = 10_000  # messages of a client that wait here; the rest waits there
_MOST_UNTOLD = 1000  # messages of a client that the broker has yet to take
_MOST_SCHEMAS = 16 << 20  # bytes of memory that the schemas of one client may take, about
_MOST_MEMORY = 1 << 30  # bytes that this process may take beside what may lie in slots
_IO_THREADS = 4  # they decrypt; ZeroMQ gives each connection to one of them


class GatewayConfig(msgspec.Struct, frozen=True):
    """What a gateway reads from its standard input: keys do not belong on a command line.

    Parameters
    ----------
    address : str
        Of the broker's channel.
    listener : int
        Inherited descriptor of a listening TCP socket.
    server_secret, client_public : str
        CURVE keys in Z85: the gateway's own, and the one that clients must have.
    log_level, name : str
    """

    address: str
    listener: int
    server_secret: str
    client_public: str
    log_level: str = "WARNING"
    name: str = ""


def spawn(config: GatewayConfig) -> subprocess.Popen[bytes]:
    """Start a gateway; it ends with the broker's process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tfos_fast.channel.remote.gateway"],
        stdin=subprocess.PIPE,
        pass_fds=(config.listener,),
        # Spark's workers have a hash seed that everybody knows, and with it who sends keys could choose their places in a dict.
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path), PYTHONHASHSEED="random"),
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(config))
    process.stdin.close()
    return process


class Client:
    """One remote writer, and its connection to the broker.

    Parameters
    ----------
    address : Address
        Of the feed's channel.
    segment : Segment
    context : zmq.Context
    """

    def __init__(self, address: Address, segment: Segment, context: zmq.Context[Any]) -> None:
        self.segment = segment
        self.link = context.socket(zmq.DEALER)
        self.link.linger = 1000
        self.link.sndhwm, self.link.rcvhwm = _MOST_UNTOLD, 0
        self.link.connect(f"ipc://{address.socket}")
        self._granted: set[int] = set()
        self._open = False
        self._asks = False  # a proposal is not answered yet
        self._gave_up = False
        self._schemas: dict[int, Schema] = {}
        self._proposed: set[Schema] = set()
        self._memory = 0  # that these take

    def up(self, message: Any, payload: list[Any]) -> None:
        """Relay what the remote writer says.

        Raises
        ------
        WireError
            It breaks the protocol.
        SchemaMismatch
            A column or a value is none that is taken over a network.
        """
        if isinstance(message, m.Hello):
            if message.role == "reader":
                raise wire.WireError("a reader is always local")
            message = m.Hello(message.role, os.getpid(), started(os.getpid()))
        elif isinstance(message, m.Publish):
            self._fill(message, payload)
        elif isinstance(message, m.Propose):
            self._check_proposal(message.schema)
        elif isinstance(message, m.Stalled):
            if self._gave_up:
                return
            self._gave_up = True
        elif isinstance(message, m.OpenPartition):
            if not message.key.isprintable():
                raise wire.WireError("a partition whose key has control characters")
        elif isinstance(message, m.Done):
            if len(message.taken) + len(message.released) > self.segment.n_slots:
                raise wire.WireError("more slots than there are")
        elif isinstance(message, m.GiveBack):
            self._granted.discard(message.slot)
        elif isinstance(message, m.ClosePartition):
            self._granted.clear()
            self._open = False
        try:
            self.link.send(m.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            raise wire.WireError("more messages than the broker can take, without waiting for its answers") from None

    def _check_proposal(self, schema: Schema) -> None:
        if self._asks:
            raise wire.WireError("a second proposal before the answer")
        self._asks = True
        check_schema(schema)
        if schema not in self._proposed:
            self._memory = charge(self._memory, schema, _MOST_SCHEMAS, "this writer")
            self._proposed.add(schema)

    def _fill(self, message: m.Publish, payload: list[Any]) -> None:
        schema = self._schemas.get(message.schema_id)
        if not self._open or message.slot not in self._granted or schema is None or message.rows > message.capacity:
            raise wire.WireError(f"slot {message.slot} was not granted, or schema {message.schema_id} not agreed")
        try:
            where = wire.slot_layout(schema, message.capacity, self.segment.slot_bytes)
        except TfosError as error:
            raise wire.WireError(str(error)) from None
        slot = self.segment.window(message.slot)
        check_slot(where, slot, message.rows, wire.unpack(payload, slot, self.segment.slot_bytes))
        self._granted.discard(message.slot)

    def down(self, frame: bytes) -> list[Any]:
        """The frames to send for what the broker says."""
        message = m.decode_answer(frame)
        if isinstance(message, m.Granted):
            self._granted.update(message.slots)
        elif isinstance(message, m.Opened):
            # What was granted before this answer, the broker took back when the partition before was closed.
            self._granted.clear()
            self._open, self._asks = True, False  # a proposal in a partition that was shut gets no answer
        elif isinstance(message, m.Refused):
            self._asks = False
        elif isinstance(message, m.Agreed):
            self._asks = False
            self._schemas[message.schema_id] = message.schema
        elif isinstance(message, m.Deliver):
            if message.schema is not None:
                self._schemas[message.schema_id] = message.schema
            slot = self.segment.window(message.slot)
            where = wire.slot_layout(self._schemas[message.schema_id], message.capacity, self.segment.slot_bytes)
            return wire.frames(message, wire.extents(where, slot, message.rows), slot)
        return [frame]

    def leave(self) -> None:
        """Tell the broker that the writer is gone; what it had published stays."""
        with contextlib.suppress(zmq.Again):  # the broker sees the connection's end
            self.link.send(m.encode(m.Bye()), zmq.NOBLOCK)
        self.link.close()


class Gateway:
    """Serve remote writers of one broker, and of the named feeds that its owner knows.

    Parameters
    ----------
    config : GatewayConfig

    Raises
    ------
    AddressError
        The broker is gone.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        where = Address.parse(config.address)
        broker = open_pidfd(where.pid, where.started)
        if broker is None:
            raise AddressError(f"the broker of {config.address} is gone")
        self._broker = broker
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)  # now: later no descriptor may be left
        self._descriptors = Descriptors(f"the gateway {config.name}".strip(), "no remote writer can connect")
        self._feeds: dict[str, tuple[Address, Segment]] = {}
        self._clients: dict[bytes, Client] = {}
        self._links: dict[Any, bytes] = {}
        self._context = zmq.Context(io_threads=min(_IO_THREADS, os.cpu_count() or 1))
        self._local = zmq.Context()  # threads that decrypt megabytes would keep control messages waiting
        self._zap = self._context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap.bind("inproc://zeromq.zap.01")
        self._socket = self._context.socket(zmq.ROUTER)
        curve.as_server(self._socket, config.server_secret.encode(), b"tfos_fast")
        self._socket.linger = 0
        # What is under way is bounded by the slots, where a client keeps to the protocol. One that does not is dropped, or waits.
        self._socket.sndhwm, self._socket.rcvhwm = _MOST_UNREAD, _MOST_UNHEARD
        self._socket.maxmsgsize = wire.MAX_CONTROL
        self._socket.router_mandatory = True  # tells who is gone
        self._socket.heartbeat_ivl = wire.HEARTBEAT_MS
        self._socket.heartbeat_timeout = self._socket.heartbeat_ttl = wire.SILENCE_MS
        self._socket.handshake_ivl = wire.CONNECT_MS
        os.set_blocking(config.listener, False)
        self._socket.setsockopt(zmq.USE_FD, config.listener)
        self._socket.bind("tcp://127.0.0.1:*")  # ignored: the descriptor is bound already
        self._poller = zmq.Poller()
        for source in (self._socket, self._zap, self._broker):
            self._poller.register(source, zmq.POLLIN)

    def run(self) -> None:
        """Serve until the broker's process ends, or this one has grown too large.

        ZeroMQ takes whole messages, of however many parts, before anybody sees them. So what clients send may fill the memory.
        """
        probe = time.monotonic() + PROBE
        while True:
            events = dict(self._poller.poll(int(PROBE * 1000)))
            if self._broker in events:
                return
            if self._zap in events:
                self._authenticate()
            if self._socket in events:
                self._from_clients()
            for link in [source for source in events if source in self._links]:
                self._from_broker(link)
            if time.monotonic() >= probe:
                if (taken := self._own_memory()) > _MOST_MEMORY + sum(
                    each.slot_bytes * each.n_slots for _, each in self._feeds.values()
                ):
                    log.error(
                        "the gateway ends, as what remote writers sent fills %d MiB; another one takes its place", taken >> 20
                    )
                    return
                # Behind what has come: a client that has said its last words and left is heard out.
                if not self._from_clients():
                    continue
                probe = time.monotonic() + PROBE
                self._descriptors.look()
                for peer in list(self._clients):
                    self._send(peer, [m.encode(wire.Still())])

    def _own_memory(self) -> int:
        """Bytes of memory of this process that it shares with nobody."""
        _, resident, shared, *_ = map(int, os.pread(self._statm, 256, 0).split())
        return (resident - shared) * resource.getpagesize()

    def close(self) -> None:
        """Close the sockets."""
        for client in self._clients.values():
            client.link.close(0)
        for context in (self._context, self._local):
            context.destroy(linger=0)
        os.close(self._broker)
        os.close(self._statm)

    # ---- clients -------------------------------------------------------------------------------------------------------------

    def _authenticate(self) -> None:
        """Answer libzmq's question (RFC 27) whether this CURVE key may enter."""
        version, request, _domain, _address, _identity, mechanism, *credentials = self._zap.recv_multipart()
        good = mechanism == b"CURVE" and credentials == [z85.decode(self._config.client_public)]
        status = (b"200", b"OK") if good else (b"400", b"this key is not of this cluster")
        self._zap.send_multipart([version, request, *status, b"feeder", b""])

    def _from_clients(self) -> bool:
        """Handle what has come from clients, in turns with other work; whether that was all."""
        for _ in range(16):
            try:
                peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return True
            self._handle(bytes(peer.buffer), [frame.buffer for frame in frames])
        return False

    def _handle(self, peer: bytes, frames: list[Any]) -> None:
        client = self._clients.get(peer)
        try:
            if not frames or len(frames[0]) > wire.MAX_CONTROL:
                raise wire.WireError("no message")
            message = wire.decode_from_client(frames[0])
            if len(frames) > 1 and not isinstance(message, m.Publish):
                raise wire.WireError(f"{type(message).__name__} with a payload")
            if isinstance(message, wire.Attach):
                self._attach(peer, message)
            elif client is None:
                return  # it was dropped, and does not know yet
            elif isinstance(message, m.Bye):
                self._drop(peer)
            else:
                client.up(message, frames[1:])
        except (wire.WireError, *m.UNREADABLE) as error:
            log.warning("dropped a remote writer: %s", error)
            self._send(peer, [m.encode(m.Failed("ChannelError", f"protocol error: {error}"))])
            self._drop(peer)
        except SchemaMismatch as error:
            self._send(peer, [m.encode(m.Failed("SchemaMismatch", str(error)))])
            self._drop(peer)

    def _attach(self, peer: bytes, message: wire.Attach) -> None:
        if peer in self._clients:
            raise wire.WireError("a second Attach")
        try:
            if message.feed not in self._feeds:
                self._feeds[message.feed] = self._find(message.feed)
            address, segment = self._feeds[message.feed]
            client = Client(address, segment, self._local)
        except TfosError as error:
            self._send(peer, [m.encode(to_failed(error))])
            return
        except (OSError, zmq.ZMQError) as error:
            # Its task may find another node, or be tried again.
            self._send(peer, [m.encode(m.Failed("ChannelError", f"the gateway cannot take one more remote writer: {error}"))])
            self._descriptors.met(error)
            return
        self._clients[peer] = client
        self._links[client.link] = peer
        self._poller.register(client.link, zmq.POLLIN)
        self._send(peer, [m.encode(wire.Attached(segment.slot_bytes, segment.n_slots))])

    def _find(self, feed: str) -> tuple[Address, Segment]:
        text = self._config.address
        if feed:
            broker = LocalConnection(text, "control", None, stall_timeout=60.0)
            try:
                broker.send(m.Control("feed", feed.encode()))
                text = broker.ask(m.ControlAnswer, "the answer to 'feed'").body.decode()
            finally:
                broker.close(told=True)  # its question was answered
        address = Address.parse(text)
        return address, Segment.open(address.pid, address.fd, address.segment_id)

    def _drop(self, peer: bytes) -> None:
        client = self._clients.pop(peer, None)
        if client is not None:
            self._poller.unregister(client.link)
            del self._links[client.link]
            client.leave()

    def _send(self, peer: bytes, frames: list[Any]) -> None:
        try:
            self._socket.send_multipart([peer, *frames], zmq.NOBLOCK, copy=False)
        except zmq.Again:
            log.warning("dropped a remote writer: it does not read what it is told")
            self._drop(peer)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            log.info("a remote writer is gone")
            self._drop(peer)

    # ---- the broker ----------------------------------------------------------------------------------------------------------

    def _from_broker(self, link: Any) -> None:
        peer = self._links.get(link)
        while peer in self._clients:
            try:
                frame = link.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                frames = self._clients[peer].down(frame)
            except (TfosError, ValueError) as error:  # results whose slot is damaged
                log.warning("dropped a remote writer: the results for it cannot be sent: %s", error)
                self._send(peer, [m.encode(m.Failed("ChannelError", f"the node's results cannot be sent: {error}"))])
                self._drop(peer)
            else:
                self._send(peer, frames)


def main() -> None:
    """Read the configuration, serve until the broker's process is gone."""
    config = msgspec.json.decode(sys.stdin.buffer.read(), type=GatewayConfig)
    logging.basicConfig(
        level=config.log_level, format=f"%(asctime)s %(levelname)s tfos_fast {config.name} gateway %(message)s", stream=sys.stderr
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # connections of strangers take one each until they are cut
    try:
        gateway = Gateway(config)
    except AddressError as error:
        log.info("nothing to serve: %s", error)
        return
    try:
        gateway.run()
    finally:
        gateway.close()


if __name__ == "__main__":
    main()
