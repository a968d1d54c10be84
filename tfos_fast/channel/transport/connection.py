"""A client's connection to the broker: one DEALER socket, used by one thread at a time, whose waits watch the broker's life.

``Connection`` is what all connections do; :class:`~tfos_fast.channel.transport.local.LocalConnection` attaches on the broker's
host, and :class:`~tfos_fast.channel.remote.client.RemoteConnection` reaches a broker over the network.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, NoReturn, TypeVar

import msgspec
import zmq

from tfos_fast import errors
from tfos_fast.channel.host.processes import started
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.failures import to_exception

_POLL_MS = 100  # a cancelled Spark task ends by itself within one poll
_ASK_STATUS_S = 2.0
_GLANCE_S = 0.001
STARVE_AFTER_MS = 5

Role = Literal["writer", "reader", "control"]
T = TypeVar("T")


def _new_socket() -> zmq.Socket[bytes]:
    socket = zmq.Context().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)  # a connection dropped without close must not hang the garbage collector
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    return socket


class Connection:
    """What every connection to a broker does: send, wait, and raise what the broker reports.

    A subclass makes the socket and connects it. It says what becomes readable when the other side may be gone
    (``_watch``), what has then come of it (``_lost``), and how messages lie in frames (``_put``, ``_get``).

    Parameters
    ----------
    role : str
        ``"writer"``, ``"reader"`` or ``"control"``.
    handler : callable
        Bound method; gets every message that nobody waits for in particular. Its object is not kept alive.
    stall_timeout : float
        Seconds without any movement in the channel after which a wait raises StallTimeout.
    socket : zmq.Socket, optional
        One that is connected, and has been used by another connection.

    Attributes
    ----------
    segment : Segment or Buffers
        Where the slots lie that this client was granted or delivered.
    broker : str
        The other side, for messages.
    entered : Status
        The broker's counters when it let us in.
    hold_s : float
        Slots that fill within so many seconds may be told of together.
    """

    hold_s = 0.0

    segment: Any
    broker: str
    entered: m.Status

    def __init__(
        self, role: Role, handler: Callable[[Any], None] | None, *, stall_timeout: float, socket: zmq.Socket[bytes] | None = None
    ) -> None:
        self._closed = True  # there is nothing to close yet
        self._role: Role = role
        self._pid = os.getpid()
        # Weakly, here and in wake_on: a writer or reader that is dropped without close() then says goodbye at once.
        self._handler = weakref.WeakMethod(handler) if handler is not None else None
        self._catch: Callable[[Any], bool] | None = None
        self._pumped = 0.0
        self._held: list[m.Message] = []
        self.stall_timeout = stall_timeout
        self._status: m.Status | None = None
        self.failure: errors.TfosError | None = None
        self._stale = socket is not None  # what comes before the welcome is for the socket's last user
        self._socket = socket if socket is not None else _new_socket()
        self._context = self._socket.context
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._woken: weakref.WeakMethod[Callable[[], None]] | None = None

    def _watch(self, source: Any) -> None:
        """The socket is connected; ``source`` becomes readable when the other side may be gone."""
        self._closed = False
        self._alarm = source
        self._poller.register(source, zmq.POLLIN)

    def _greet(self) -> None:
        """Say who this is."""
        self.send(m.Hello(self._role, self._pid, started(self._pid)))
        self.entered = self.ask(m.Welcome, "the broker's welcome").status

    # ---- for subclasses ------------------------------------------------------------------------------------------------------

    def _lost(self) -> str | None:
        """The alarm was raised: what has happened to the other side, if anything."""
        raise NotImplementedError

    def _put(self, message: m.Message) -> None:
        """Send without blocking."""
        self._socket.send(m.encode(message), zmq.NOBLOCK)

    def _put_all(self, messages: list[m.Message]) -> None:
        """Send several without blocking."""
        for message in messages:
            self._put(message)

    def _get(self) -> Any:
        """The next message that is there.

        Raises
        ------
        zmq.Again
            There is none.
        """
        return m.decode_answer(self._socket.recv(zmq.NOBLOCK))

    def _release(self) -> None:
        """Give up what belongs to this connection beside its socket."""
        self.segment.close()

    # ---- for readers and writers ---------------------------------------------------------------------------------------------

    def wake_on(self, fd: int, callback: Callable[[], None]) -> None:
        """Let waits also watch a file descriptor, and call a bound method."""
        self._poller.register(fd, zmq.POLLIN)
        self._woken = weakref.WeakMethod(callback)

    def send(self, message: m.Message) -> None:
        """Send one message, behind those that were held back; never blocks."""
        self.check()
        if self._held:
            held, self._held = self._held, []
            self._put_all([*held, message])
        else:
            self._put(message)

    def hold(self, message: m.Message) -> None:
        """Send a message together with the next one, or before a wait."""
        self.check()
        self._held.append(message)

    def flush(self) -> bool:
        """Send what was held back; whether there was anything."""
        if not self._held:
            return False
        held, self._held = self._held, []
        self._put_all(held)
        return True

    def check(self) -> None:
        """Raise what is wrong with this connection, if anything is.

        Raises
        ------
        ChannelClosed
            It is closed, or was made by another process before a fork.
        TfosError
            The broker reported a failure.
        """
        if self._closed:
            raise errors.ChannelClosed("this end of the channel is closed")
        if os.getpid() != self._pid:
            raise errors.ChannelClosed(f"this end of the channel belongs to process {self._pid}; attach anew after a fork")
        if self.failure is not None:
            raise self.failure

    def pump(self, timeout_ms: int = 0) -> bool:
        """Handle what has arrived, after waiting up to ``timeout_ms`` for the first message. Returns whether anything came."""
        self.check()
        alarm = False
        came = False
        self._pumped = time.monotonic()
        if timeout_ms:
            self.flush()
            for source, _ in self._poller.poll(timeout_ms):
                if source == self._alarm:
                    alarm = True
                elif source is not self._socket and self._woken is not None:
                    woken = self._woken()
                    if woken is not None:
                        woken()
                    came = True
        while True:
            try:
                message = self._get()
            except zmq.Again:
                break
            came = True
            self._receive(message)
        self.check()
        what = self._lost() if alarm else None
        if what is not None:
            self._bury(what)
        return came

    def glance(self) -> None:
        """``pump``, unless that was done a moment ago: for loops that would else look more often than anything can come."""
        if time.monotonic() - self._pumped > _GLANCE_S:
            self.pump()

    def _receive(self, message: Any) -> None:
        if self._stale:
            if not isinstance(message, m.Welcome | m.Failed):
                return
            self._stale = False
        if isinstance(message, m.Failed):
            self.failure = to_exception(message)
        elif isinstance(message, m.Status):
            self._status = message
        elif self._catch is None or not self._catch(message):
            handler = self._handler() if self._handler is not None else None
            if handler is not None:
                handler(message)

    def _bury(self, what: str) -> NoReturn:
        self.failure = errors.BrokerDied(f"{what}; what it had not delivered is lost")
        raise self.failure

    def wait(
        self,
        ready: Callable[[], T | None],
        what: str,
        *,
        timeout: float | None = None,
        starve: Callable[[], None] | None = None,
        starve_ms: int = STARVE_AFTER_MS,
    ) -> T:
        """Handle messages until ``ready()`` returns something that is not None.

        Parameters
        ----------
        ready : callable
        what : str
            For the error: what is waited for.
        timeout : float, optional
            Seconds; default: as long as something moves in the channel.
        starve : callable, optional
            Called once when nothing has come for ``starve_ms`` milliseconds.
        starve_ms : int

        Raises
        ------
        StallTimeout
            Nothing moved; the message says who waits for whom.
        BrokerDied, NodeFailed, ReaderDied, ...
            What the broker reported, or its death.
        """
        self.pump()
        value = ready()
        if value is not None:
            return value
        begin = moved = asked = time.monotonic()
        progress = None
        if starve is not None and not self.pump(starve_ms):
            starve()  # not at once: most often the next slot is on its way, and the word to all writers costs more than it brings
        while True:
            value = ready()
            if value is not None:
                return value
            now = time.monotonic()
            left = _POLL_MS if timeout is None else min(_POLL_MS, max(1, int((begin + timeout - now) * 1000)))
            self.pump(left)
            value = ready()
            if value is not None:
                return value
            now = time.monotonic()
            if timeout is not None and now - begin >= timeout:
                raise errors.StallTimeout(f"waited {timeout:g} s for {what}. {self._situation()}")
            if now - asked > _ASK_STATUS_S:
                self.send(m.AskStatus())
                asked = now
            if self._status is not None and self._status.progress != progress:
                progress, moved = self._status.progress, now
            if now - moved > self.stall_timeout:
                text = (
                    f"nothing moved for {now - moved:.0f} s while process {self._pid} waited for {what}. {self._situation()} "
                    "The setting stall_timeout (of a cluster: feed_timeout) changes how long this may last."
                )
                if self._role == "writer":
                    self.send(m.Stalled(text))
                raise errors.StallTimeout(text)

    def _situation(self) -> str:
        s = self._status
        if s is None:
            return f"No answer has come from {self.broker}."
        slots = ", ".join(f"{count} {state}" for state, count in s.slots.items() if count)
        reader = "a reader is attached" if s.reader else "no reader is attached"
        return (
            f"Slots: {slots}; {reader}; {s.writers} writers, {s.waiting} requests for a slot; "
            f"{s.rows_taken} of {s.rows_published} rows taken."
        )

    def ask(self, answer: type[T], what: str, *, timeout: float | None = 60.0) -> T:
        """Wait for the next message of a type, or for Refused, which is raised; other messages go to the handler.

        A wait that ends without the answer (a timeout, Ctrl-C) ends the use of this connection: the answer may still come, and must
        not be taken for that of a later request.
        """
        found: list[T | m.Refused] = []

        def catch(message: Any) -> bool:
            if found or not isinstance(message, answer | m.Refused):
                return False
            found.append(message)
            return True

        self._catch = catch
        try:
            self.wait(lambda: True if found else None, what, timeout=timeout)
        except BaseException:
            if self.failure is None:
                self.failure = errors.ChannelClosed(f"the wait for {what} was given up; attach anew")
            raise
        finally:
            self._catch = None
        reply = found[0]
        if isinstance(reply, m.Refused):
            raise to_exception(reply)
        return reply

    def status(self) -> dict[str, Any]:
        """Ask the broker for its counters."""
        self._status = None
        self.send(m.AskStatus())
        return msgspec.structs.asdict(self.wait(lambda: self._status, "the broker's status", timeout=60.0))

    def close(self, *, abort: bool = False, told: bool = False) -> None:
        """Say goodbye and close.

        Parameters
        ----------
        abort : bool
            Nothing more is sent.
        told : bool
            An answer has shown that the broker has all that was sent: a connection that is kept need not ask whether it has.
        """
        if self._closed:
            return
        self._closed = True
        if os.getpid() != self._pid:
            self._release()
            return  # the parent's socket is not ours to close
        abort = abort or isinstance(self.failure, errors.BrokerDied)
        if not abort and self.failure is None:
            with suppress(zmq.Again, errors.BrokerDied):  # the other side is gone, and nobody has looked since
                self.flush()
        self._release()
        if not abort:
            with suppress(zmq.Again):  # the other side is gone, and nobody has looked since
                self._socket.send(m.encode(m.Bye()), zmq.NOBLOCK)
        # Not Context.destroy: it knows its sockets by weak references, which a garbage collector that drops us has cleared already.
        self._socket.close(linger=0 if abort else 2000)
        self._context.term()

    def abandon(self) -> None:
        """Use this connection no more and never say goodbye: the broker is to see this process's death as one."""
        self._closed = True

    def __del__(self) -> None:
        # Dropped without close(): the broker would otherwise wait for us as long as this process lives.
        if not getattr(self, "_closed", True):
            Connection.close(self)  # whatever it is: there is no waiting in a garbage collection
