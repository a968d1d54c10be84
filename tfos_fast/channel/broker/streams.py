"""The streams of a feed: attempts at partitions, who replaced whom, and how many rows of each were published. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tfos_fast.channel.broker.tally import Tally
from tfos_fast.channel.codec.fingerprint import Proof


@dataclass
class Stream:
    """One attempt of one writer at one partition."""

    number: int
    key: str
    attempt: int
    writer: bytes | None
    exchange: bool  # results are wanted back
    lane: int  # what the reader knows it by: the number of the attempt that it goes on for, or its own
    tally: Tally  # of its feed
    published: int = 0  # rows of the partition, those of earlier attempts included
    proof: Proof = field(default_factory=Proof)  # of these
    in_flight: int = 0  # slots published and not yet taken
    closed: bool = False  # nothing more is accepted
    complete: bool = False  # its writer said that this was the whole partition
    fenced: bool = False  # a newer attempt has taken its place


class Streams:
    """All streams, by number; the newest attempt at each partition; and the partitions that were left unfinished."""

    def __init__(self) -> None:
        self._all: dict[int, Stream] = {}
        self._opened = 0
        self._latest: dict[str, Stream] = {}
        self._broken: dict[str, int] = {}

    def get(self, number: int) -> Stream | None:
        """The stream of a number."""
        return self._all.get(number)

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._all.values())

    def existed(self, number: int) -> bool:
        """Whether a stream of this number was ever opened."""
        return 0 <= number < self._opened

    def latest(self, key: str) -> Stream | None:
        """The newest attempt at a partition."""
        return self._latest.get(key)

    def open(
        self, key: str, attempt: int, writer: bytes, tally: Tally, *, exchange: bool, skip: int, proof: Proof | None = None
    ) -> Stream:
        """A new attempt. It goes on in the lane of an unfinished one, so that the reader keeps the partition's order."""
        number = self._opened
        self._opened += 1
        before = self._latest.get(key)
        goes_on = before is not None and skip and not (exchange or before.exchange or before.complete)
        lane = before.lane if before is not None and goes_on else number
        stream = Stream(number, key, attempt, writer, exchange, lane, tally, published=skip, proof=proof or Proof())
        self._all[number] = stream
        self._latest[key] = stream
        return stream

    def left(self, stream: Stream, pid: int) -> None:
        """Its writer is gone in mid-partition."""
        stream.closed = True
        if self._latest.get(stream.key) is stream:
            self._broken[stream.key] = pid

    def finish(self, stream: Stream) -> None:
        """Its writer has published the whole partition."""
        stream.closed = stream.complete = True
        self._broken.pop(stream.key, None)

    def restart(self) -> list[Stream]:
        """The reader is gone: no stream goes on. Returns those whose writers have to be told."""
        attached = [stream for stream in self._all.values() if stream.writer is not None]
        for stream in attached:
            stream.closed = stream.fenced = True
        self._all = {stream.number: stream for stream in attached}
        self._latest.clear()
        self._broken.clear()
        return attached

    def exchanges(self) -> int:
        """How many streams that want results back are open."""
        return sum(stream.exchange and not stream.closed for stream in self._all.values())

    def forget(self, stream: Stream) -> None:
        """Nobody will ask for it any more."""
        self._all.pop(stream.number, None)
        if self._latest.get(stream.key) is stream:
            del self._latest[stream.key]

    def forget_complete(self) -> None:
        """The job behind all complete partitions is over: no newer attempt will come. A long feed has millions of them."""
        for stream in [stream for stream in self._all.values() if stream.complete and stream.writer is None]:
            self.forget(stream)

    def broken(self) -> tuple[str, int] | None:
        """A partition that nobody finished, and the process that left it."""
        return next(iter(self._broken.items()), None)
