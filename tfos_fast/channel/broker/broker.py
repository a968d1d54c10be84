"""The broker: one process, one single-threaded loop, the only owner of a segment's slot table.

It moves descriptors, never rows. In a cluster the node's agent embeds it (``watch``, ``every``, ``on_control``); a plain
:class:`~tfos_fast.channel.Channel` runs it as ``python -m tfos_fast.channel.broker.broker``.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq

from tfos_fast.channel.broker.feed import Feed, Loss
from tfos_fast.channel.broker.feed_partitions import OnOpen
from tfos_fast.channel.broker.slot_table import TableError
from tfos_fast.channel.codec.fingerprint import Proof
from tfos_fast.channel.host.descriptors import Descriptors, make_room
from tfos_fast.channel.host.processes import make_again, make_runtime_directory, open_pidfd, remove_runtime_directory, started
from tfos_fast.channel.host.segment import Segment
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.address import Address
from tfos_fast.channel.protocol.row_spans import Reached

log = logging.getLogger(__name__)

# A dying client's last messages may still be in the socket when the kernel reports its death.
_LAST_WORDS = 0.02
_LOOK = 2.0  # seconds after which it is looked whether the socket's path is still there
_MOST_UNREAD = 1 << 20  # messages that may wait for one client
_MOST_AT_ONCE = 64  # messages that a client sends together
_MAX_MESSAGE = 16 << 20  # control messages are small; a spool file carries what is not


class Broker:
    """Serve one segment.

    Parameters
    ----------
    segment : Segment
        Made by this process, or inherited by it.
    on_open, end_after, form
        As for :class:`~tfos_fast.channel.broker.feed.Feed`.
    host : Broker, optional
        Served by the loop of this one, which runs. Only the loop is shared.

    Attributes
    ----------
    address : str
        What clients attach to.
    directory : Path
        The private runtime directory (mode 0700) that holds the socket; removed by ``close``.
    on_control : callable
        ``on_control(name, body) -> bytes`` answers ``Channel.control``. It may raise a TfosError, which the caller gets.
    on_turn : callable
        Called at the end of each turn of the loop.
    on_terminated, on_partition_done, explain_death : callable
        Hooks of the feed: ``(asked)`` the reader wants no more rows, as it said or because it left; ``(key, attempt, rows, proof)``
        a partition was published whole; ``(pid) -> Failed or None`` words for a dead reader.
    ended_well : callable
        ``(pid) -> bool``: a reader that died without a goodbye has done its work all the same.
    on_stalled : callable
        ``(text)``: a writer has given up since nothing moved for its stall timeout.
    """

    def __init__(
        self,
        segment: Segment,
        *,
        on_open: OnOpen | None = None,
        end_after: int = 0,
        form: m.Form | None = None,
        host: Broker | None = None,
    ) -> None:
        self.segment = segment
        self._host = host
        self._guests: list[Broker] = []
        self.feed = Feed(segment.n_slots, end_after=end_after, form=form, on_open=on_open)
        self.on_control: Callable[[str, bytes], bytes] | None = None
        self.on_stalled: Callable[[str], None] | None = None
        self.on_terminated: Callable[[bool], None] | None = None
        self.on_partition_done: Callable[[str, int, int, Proof], None] | None = None
        self.explain_death: Callable[[int], m.Failed | None] | None = None
        self.ended_well: Callable[[int], bool] | None = None
        self.on_turn: Callable[[], None] | None = None
        self.feed.on_terminated = lambda asked: self.on_terminated(asked) if self.on_terminated else None
        self.feed.on_partition_done = lambda *what: self.on_partition_done(*what) if self.on_partition_done else None
        self.feed.explain_death = lambda pid: self.explain_death(pid) if self.explain_death else None
        self.feed.ended_well = lambda pid: self.ended_well is not None and self.ended_well(pid)
        self.directory: Path = make_runtime_directory()
        path = self._path = self.directory / "broker"
        self._missed = False  # the path was seen to be gone, and could not be made again
        self._descriptors = Descriptors(f"the broker (process {os.getpid()})", "nobody new can attach")
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        # What waits for a peer that keeps to the protocol is bounded by slots and partitions; one that does not is dropped.
        self._socket.setsockopt(zmq.SNDHWM, _MOST_UNREAD)
        self._socket.setsockopt(zmq.RCVHWM, 10_000)  # the rest waits at the sender
        self._socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            self._socket.bind(f"ipc://{path}")
        except zmq.ZMQError:
            self._context.destroy(linger=0)  # not left to the garbage collector, which may take the sockets' registry first
            remove_runtime_directory(self.directory)
            raise
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._watched: dict[Any, Callable[[], None]] = {}
        self._pidfds: dict[bytes, int] = {}
        self._processes: dict[bytes, tuple[int, int]] = {}  # process id and start time of each client
        self._timers: list[list[Any]] = []  # [next time, period, callback]
        self._dying: dict[bytes, float] = {}
        self._running = True
        self.every(_LOOK, self._look)
        self._more = False  # messages are left for the next turn
        if host is not None:
            host._guests.append(self)
            host.watch(self._socket, lambda: None)  # wakes the loop, which then gives every guest its turn
        self.address = str(Address(os.getpid(), started(os.getpid()), segment.fd, segment.id, str(path)))

    # ---- for whoever embeds the broker ---------------------------------------------------------------------------------------

    def watch(self, source: Any, callback: Callable[[], None]) -> None:
        """Call ``callback()`` in the loop while ``source`` (a file descriptor or ZeroMQ socket) is readable."""
        if self._host is not None:
            self._host.watch(source, callback)
            return
        self._watched[source] = callback
        self._poller.register(source, zmq.POLLIN)

    def unwatch(self, source: Any) -> None:
        """Stop watching."""
        if self._host is not None:
            self._host.unwatch(source)
            return
        if self._watched.pop(source, None) is not None:
            self._poller.unregister(source)

    def every(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call ``callback()`` in the loop about every so many seconds."""
        self._timers.append([time.monotonic() + seconds, seconds, callback])

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call ``callback()`` in the loop once, in so many seconds."""
        self._timers.append([time.monotonic() + seconds, 0.0, callback])

    def fail(self, failure: m.Failed) -> None:
        """Send this error to every client, and to each one that attaches later."""
        self.feed.fail(failure)
        self.flush()

    def end_epoch(self) -> None:
        """Put an end-of-epoch mark behind everything queued for the reader."""
        self.feed.end_epoch()
        self.flush()

    def end_feed(self) -> None:
        """Put the end of the feed behind everything queued for the reader."""
        self.feed.end_feed()
        self.flush()

    def terminate(self) -> None:
        """Drop what is queued and let writers end quickly: the reader will take no more rows."""
        self.feed.terminate()
        self.flush()

    def fence(self, key: str, attempt: int) -> tuple[Reached, Proof]:
        """Shut out older attempts at a partition: see ``Feed.fence``."""
        answer = self.feed.fence(key, attempt)
        self.flush()
        return answer

    def restart(self) -> Loss:
        """The reader's process is dead, and another one will read: see ``Feed.restart``."""
        loss = self.feed.restart()
        self.flush()
        return loss

    def status(self) -> dict[str, Any]:
        """The counters of :class:`~tfos_fast.channel.protocol.messages.Status` as a dict."""
        return msgspec.structs.asdict(self.feed.status())

    def stop(self) -> None:
        """End ``run`` after the current turn."""
        self._running = False

    def close(self) -> None:
        """Close the sockets and remove the runtime directory. The segment lives on in whoever has mapped it."""
        for guest in self._guests:
            guest.close()
        if self._host is not None:
            self.unwatch(self._socket)
        for fd in self._pidfds.values():
            if self._host is not None:
                self.unwatch(fd)
            os.close(fd)
        self._pidfds.clear()
        self._context.destroy(linger=200)
        remove_runtime_directory(self.directory)
        self.segment.close()

    def _look(self) -> None:
        """Listen at the socket's path again where somebody has removed it, such as a cleaner of ``/tmp``."""
        self._descriptors.look()
        for broker in (self, *self._guests):
            if not os.path.lexists(broker._path):
                broker._listen_again()

    def _listen_again(self) -> None:
        try:
            make_again(self.directory)
            self._socket.bind(f"ipc://{self._path}")  # what is connected stays so
        except (OSError, zmq.ZMQError) as error:
            if not self._missed:
                log.warning("somebody has removed %s, and it cannot be made again: %s. Nobody new can attach", self._path, error)
            self._missed = True
        else:
            log.warning("somebody has removed %s: it is made again. TFOS_RUNTIME_DIR names the folder", self._path)
            self._missed = False

    # ---- the loop ------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until ``stop``."""
        while self._running:
            now = time.monotonic()
            deadlines = [timer[0] for timer in self._timers] + list(self._dying.values())
            deadlines += [due for guest in self._guests for due in guest._dying.values()]
            deadlines += [now for guest in self._guests if guest._more]
            timeout = min((max(0.0, due - now) for due in deadlines), default=1.0)
            for source, _ in self._poller.poll(int(min(timeout, 1.0) * 1000) + (1 if timeout else 0)):
                if source is not self._socket and source in self._watched:
                    self._go_on(self._watched[source])
            self._go_on(self._turn)
            for guest in list(self._guests):
                self._go_on(guest._turn)
            now = time.monotonic()
            for timer in list(self._timers):
                if timer[0] <= now:
                    timer[0] = now + timer[1]
                    if not timer[1]:
                        self._timers.remove(timer)
                    self._go_on(timer[2])
            if self.on_turn is not None:
                self.on_turn()
            self.flush()

    def _go_on(self, call: Callable[[], None]) -> None:
        """Call, and go on where no file descriptor is left for what it does."""
        try:
            call()
        except (OSError, zmq.ZMQError) as error:
            self._descriptors.met(error)

    def _turn(self) -> None:
        self._more = not self._receive()
        if not self._more:
            self._bury()
        self.flush()

    def _receive(self) -> bool:
        """Handle what has arrived; whether that was all of it."""
        # Bounded, so that a flood of messages cannot keep timers and deaths waiting.
        for _ in range(256):
            try:
                peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return True
            try:
                if len(frames) > _MOST_AT_ONCE:
                    raise TableError(f"{len(frames)} messages at once")
                for frame in frames:
                    self._dispatch(peer, m.decode_request(frame))
            except (TableError, *m.UNREADABLE) as error:
                log.warning("dropped client %s: %s", peer.hex(), error)
                self._send(peer, m.Failed("ChannelError", f"protocol error: {error}"))
                self._forget(peer, died=True)
        return False

    def _dispatch(self, peer: bytes, message: Any) -> None:
        if isinstance(message, m.Hello):
            self._hello(peer, message)
        elif isinstance(message, m.Bye) and message.rests and peer in self._pidfds:
            self.feed.leave(peer, died=False)
        elif isinstance(message, m.Bye):
            self._forget(peer, died=False)
        elif isinstance(message, m.AskStatus):
            self._send(peer, self.feed.status())
        elif isinstance(message, m.Stalled):
            if self.on_stalled is not None and peer in self._pidfds:
                self.on_stalled(message.text)
        elif isinstance(message, m.Control):
            self._control(peer, message)
        else:
            self.feed.handle(peer, message)

    def _hello(self, peer: bytes, message: m.Hello) -> None:
        if peer in self._pidfds:
            if peer in self.feed.peers or self._processes[peer] != (message.pid, message.started):
                raise TableError("a second Hello")
            self.feed.hello(peer, message)  # its connection was at rest
            return
        try:
            pidfd = open_pidfd(message.pid, message.started)
        except OSError as error:  # out of file descriptors, for example
            self._send(peer, m.Failed("ChannelError", f"the broker cannot watch process {message.pid}: {error}"))
            return
        if pidfd is None:
            log.warning("process %d said hello and is gone, or is in another pid namespace", message.pid)
            self._send(
                peer,
                m.Failed("ChannelError", f"process {message.pid} is not visible to the broker (other pid namespace?)"),
            )
            return
        self._pidfds[peer] = pidfd
        self.watch(pidfd, lambda: self._died(peer, pidfd))
        self._processes[peer] = message.pid, message.started
        self.feed.hello(peer, message)

    def _died(self, peer: bytes, pidfd: int) -> None:
        self.unwatch(pidfd)
        self._dying[peer] = time.monotonic() + _LAST_WORDS

    def _bury(self) -> None:
        now = time.monotonic()
        for peer in [peer for peer, due in self._dying.items() if due <= now]:
            self._forget(peer, died=True)

    def _forget(self, peer: bytes, *, died: bool) -> None:
        self._dying.pop(peer, None)
        pidfd = self._pidfds.pop(peer, None)
        self._processes.pop(peer, None)
        if pidfd is not None:
            self.unwatch(pidfd)
            os.close(pidfd)
        self.feed.leave(peer, died=died)

    def _control(self, peer: bytes, message: m.Control) -> None:
        from tfos_fast.errors import TfosError

        if message.name == "end_feed":
            self.feed.end_feed()
            self._send(peer, m.ControlAnswer(b""))
        elif self.on_control is None:
            self._send(peer, m.Refused("ChannelError", f"nobody here answers {message.name!r}"))
        else:
            try:
                answer = self.on_control(message.name, message.body)
            except TfosError as error:
                # A value that it shows may be no text, as of an environment variable.
                text = str(error).encode("utf-8", "backslashreplace").decode()
                self._send(peer, m.Refused(type(error).__name__, text))
            except (OSError, zmq.ZMQError) as error:  # out of file descriptors, for example
                self._send(peer, m.Refused("ChannelError", f"process {os.getpid()} cannot answer {message.name!r}: {error}"))
            else:
                self._send(peer, m.ControlAnswer(answer))

    def flush(self) -> None:
        """Send what the feed has to say."""
        if not self.feed.outbox:
            return
        outbox, self.feed.outbox = self.feed.outbox, []
        by_peer: dict[bytes, list[m.Message]] = {}
        for peer, message in outbox:
            by_peer.setdefault(peer, []).append(message)
        for peer, messages in by_peer.items():
            self._send(peer, *messages)

    def _send(self, peer: bytes, *messages: m.Message) -> None:
        try:
            self._socket.send_multipart((peer, *map(m.encode, messages)), zmq.NOBLOCK)
        except zmq.Again:
            log.warning("dropped client %s: it does not read what it is told", peer.hex())
            self._forget(peer, died=True)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            # It hung up; its pidfd tells the rest.


def main(argv: list[str] | None = None) -> None:
    """Serve the inherited segment until the owner dies or says stop; the address goes to the ready descriptor."""
    parser = argparse.ArgumentParser()
    for name in ("segment-fd", "ready-fd", "owner", "owner-started", "end-after"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--form", default="")
    args = parser.parse_args(argv)
    logging.basicConfig(level=os.environ.get("TFOS_LOG", "WARNING"), format="%(asctime)s tfos_fast broker: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner, who then stops us
    make_room()
    form = msgspec.json.decode(args.form, type=m.Form) if args.form else None
    broker = Broker(Segment.adopt(args.segment_fd), end_after=args.end_after, form=form)
    try:
        signal.signal(signal.SIGTERM, lambda *_: broker.stop())
        owner = open_pidfd(args.owner, args.owner_started)
        if owner is None:
            return
        broker.watch(owner, broker.stop)
        # A signal handler runs only between bytecodes, and poll() restarts after EINTR: the wake-up pipe makes it return.
        wake, waker = socket.socketpair()
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno())
        broker.watch(wake, lambda: _drain(wake))
        with os.fdopen(args.ready_fd, "w") as ready:
            ready.write(broker.address)
        broker.run()
    finally:
        broker.close()


def _drain(wake: socket.socket) -> None:
    wake.recv(64)


if __name__ == "__main__":
    main()
