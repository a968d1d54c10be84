"""The channel: a bounded queue of columnar batches in shared memory between processes of one user on one host."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any, Literal

import msgspec

from tfos_fast.channel.host.processes import reap, runtime_base, started
from tfos_fast.channel.host.reuse import rests
from tfos_fast.channel.host.segment import Segment
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.address import Address
from tfos_fast.channel.reader.reader import Reader
from tfos_fast.channel.remote.attach import connect
from tfos_fast.channel.remote.client import RemoteAddress
from tfos_fast.channel.transport.connection import Connection
from tfos_fast.channel.writer.writer import Writer
from tfos_fast.errors import AddressError, BrokerDied, ChannelClosed

_START_TIMEOUT_S = 60.0


class Channel:
    """A handle on a channel. ``create`` makes the channel, ``attach`` finds one.

    Attributes
    ----------
    address : str or RemoteAddress
        Give it to other processes of the same user on this host.
    """

    def __init__(
        self, address: str | RemoteAddress, segment: Segment | None = None, broker: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.address = address
        self._segment = segment
        self._broker = broker
        self._control: Connection | None = None
        self._entered: Writer | None = None

    @classmethod
    def create(
        cls,
        memory: int | str = "64m",
        *,
        slot_bytes: int | str | None = None,
        form: Literal["rows", "columns"] | None = "columns",
        writers: int = 1,
    ) -> Channel:
        """Make the segment and start the broker process.

        The channel ends as a pipe does: when the last writer has closed, the reader gets the end after the last row.
        If this process dies, the broker ends too.

        Parameters
        ----------
        memory : int or str
            Bytes of all slots together, such as ``"64m"``. Reserved at once; never grows.
        slot_bytes : int or str, optional
            Bytes of a slot, default a sixteenth of the memory, up to 16 MiB.
            The largest row must fit into one.
        form : str, optional
            ``"columns"`` or ``"rows"``: what writers assume when they come before the reader. None: they wait for the reader.
        writers : int
            The end comes only after so many writers have come and gone; 0: only by ``end_feed``.

        Raises
        ------
        NotEnoughMemory, SegmentError
        """
        runtime_base()  # a folder that cannot be is refused here, and not in the broker's log
        segment = Segment.create(memory, slot_bytes)
        ready, ready_in = os.pipe()
        try:
            command = [sys.executable, "-m", "tfos_fast.channel.broker.broker"]
            command += ["--segment-fd", str(segment.fd), "--ready-fd", str(ready_in)]
            command += ["--owner", str(os.getpid()), "--owner-started", str(started(os.getpid()))]
            command += ["--end-after", str(writers)]
            if form is not None:
                command += ["--form", msgspec.json.encode(m.Form(form)).decode()]
            env = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
            broker = subprocess.Popen(
                command, pass_fds=(segment.fd, ready_in), stdin=subprocess.DEVNULL, start_new_session=True, env=env
            )
        except BaseException:
            os.close(ready)
            segment.close()
            raise
        finally:
            os.close(ready_in)
        with os.fdopen(ready) as pipe:
            address = pipe.read()
        if not address:
            segment.close()
            raise BrokerDied(
                f"the broker process ended at its start with status {broker.wait(_START_TIMEOUT_S)}; its log is on stderr"
            )
        return cls(address, segment, broker)

    @classmethod
    def attach(cls, address: str | RemoteAddress) -> Channel:
        """Find a channel of this user on this host, or through a gateway (which is not asked before the handle is used).

        Raises
        ------
        AddressError
            There is none: malformed, another host or user, or its broker is gone.
        """
        if isinstance(address, RemoteAddress):
            return cls(address)
        where = Address.parse(address)
        if rests(where.segment_id):
            return cls(address)
        if started(where.pid) != where.started:
            raise AddressError(f"no broker behind {address} on this host: process {where.pid} is gone")
        Segment.open(where.pid, where.fd, where.segment_id)
        return cls(address)

    def writer(self, *, stall_timeout: float = 600.0) -> Writer:
        """Attach as a writer; the one of ``enter`` has the timeout that it was given there."""
        if self._entered is not None:
            writer, self._entered = self._entered, None
            return writer
        return Writer(self.address, stall_timeout=stall_timeout)

    def enter(self, stall_timeout: float = 600.0) -> dict[str, Any]:
        """Attach as a writer now; ``writer`` will give it. Returns the broker's counters at that moment, as ``status`` does."""
        if self._entered is None:
            self._entered = Writer(self.address, stall_timeout=stall_timeout)
        return self._entered.entered

    def reader(self, *, train_mode: bool = True, stall_timeout: float = 86400.0) -> Reader:
        """Attach as the reader; there is one at a time. ``train_mode=False``: inference, every row needs a result."""
        if isinstance(self.address, RemoteAddress):
            raise AddressError(
                f"{self.address} is on another host: rows are read where they lie in memory, and only written from afar"
            )
        return Reader(self.address, train=train_mode, stall_timeout=stall_timeout)

    def control(self, name: str, body: bytes = b"", timeout: float = 60.0) -> bytes:
        """Ask whoever embeds the broker something; returns its answer."""
        connection = self._connection()
        connection.send(m.Control(name, body))
        # A request that was given up ends the connection (see ask); the next one attaches anew.
        return connection.ask(m.ControlAnswer, f"the answer to {name!r}", timeout=timeout).body

    def connect(self) -> None:
        """Connect now, which each method does for itself.

        Raises
        ------
        AddressError
            The channel cannot be reached.
        """
        self._connection()

    def status(self) -> dict[str, Any]:
        """The broker's counters: see :class:`~tfos_fast.channel.protocol.messages.Status`."""
        return self._connection().status()

    def end_feed(self) -> None:
        """End the feed behind what is published, although writers may still be attached."""
        self.control("end_feed")

    def _connection(self) -> Connection:
        if self._control is not None and isinstance(self._control.failure, ChannelClosed):
            self._control.close()
            self._control = None
        if self._control is None:
            self._control = connect(self.address, "control", None, stall_timeout=60.0)
        return self._control

    def close(self) -> None:
        """Owner: stop the broker and free the segment (arrays already handed out stay valid). Others: only drop this handle."""
        if self._entered is not None:
            self._entered.close()
            self._entered = None
        if self._control is not None:
            self._control.close(told=True)  # each of its questions was answered
            self._control = None
        if self._broker is not None:
            broker, self._broker = self._broker, None
            broker.terminate()
            try:
                broker.wait(5.0)
            except subprocess.TimeoutExpired:
                broker.kill()
                broker.wait()
            reap()  # if it was killed, its folder is still there
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def wait_ended(self, timeout: float = 60.0) -> None:
        """Wait until every published row was taken and no writer is attached.

        Raises
        ------
        ChannelClosed
            It did not happen in time.
        """
        deadline = time.monotonic() + timeout
        while True:
            status = self.status()
            if status["writers"] == 0 and status["rows_taken"] == status["rows_published"]:
                return
            if time.monotonic() > deadline:
                raise ChannelClosed(f"after {timeout:g} s there are still {status['writers']} writers, {status}")
            time.sleep(0.05)

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
