"""Which rows of which partitions one life of a reader was given, and how many of them its last commit covers. Pure.

The reader knows *lanes* (a partition as one node gets it) and counts the rows of each that the program was handed. Which rows of
the partition these are is known here: a lane may have several spans, when the partition went on elsewhere in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tfos_fast.channel.broker.tally import Tally
from tfos_fast.channel.protocol.row_spans import Reached, Span, count, join, split

_LOOK_BACK = 1  # ended epochs whose rows a position still tells: nodes may be so far apart


@dataclass
class _Lane:
    key: str
    epoch: int
    tally: Tally  # of its feed
    spans: list[Span] = field(default_factory=list)
    committed: int = 0  # of its rows, the first ones
    attempt: int = -1  # that was opened last

    @property
    def rows(self) -> int:
        return count(self.spans)


class Deliveries:
    """The book of one life.

    Parameters
    ----------
    keep : bool
        The rows that are not committed will be asked for (``lost``). False: of epochs that have long ended nothing is kept.
    total : Tally, optional
        Told, as the tally of each partition's feed is, which rows commits have covered.

    Attributes
    ----------
    epoch : int
        Ends of an epoch that the last commit covers.
    whole : int
        Epochs, from the first one on, that commits cover to their end, with rows that the program was not handed.
    """

    def __init__(self, *, keep: bool, total: Tally | None = None) -> None:
        self.epoch = 0
        self.whole = 0
        self.keep = keep
        self._total = total or Tally()
        self._now = 0  # ends of an epoch that were put behind the rows so far
        self._lanes: dict[int, _Lane] = {}

    def opened(self, lane: int, key: str, attempt: int, skip: int, tally: Tally | None = None) -> None:
        """What is published in the lane from here on are the attempt's rows of the partition, from number ``skip`` on."""
        entry = self._lanes.setdefault(lane, _Lane(key, self._now, tally or Tally()))
        entry.attempt = attempt
        entry.spans.append((skip, skip))

    def published(self, lane: int, rows: int) -> None:
        """Rows for the reader."""
        entry = self._lanes.get(lane)  # of results none is kept
        if entry is not None:
            begin, end = entry.spans[-1]
            entry.spans[-1] = (begin, end + rows)

    def end_epoch(self) -> None:
        """An epoch ends behind everything published."""
        self._now += 1
        for number, lane in list(self._lanes.items()):
            if lane.epoch < self._now - 1 - _LOOK_BACK and (self._covered(lane) or not self.keep):
                del self._lanes[number]

    def commit(self, epoch: int, ends: bool, handed: Mapping[int, int]) -> None:
        """A checkpoint covers so many rows of each lane.

        Parameters
        ----------
        epoch : int
            Ends of an epoch that the program has come by.
        ends : bool
            It stops at each, and has done with the rows before.
        handed : mapping
            Lane -> how many of its rows the program was handed since the commit before.
        """
        self.epoch = max(self.epoch, epoch)
        for number, rows in handed.items():
            if number in self._lanes:
                self._cover(self._lanes[number], rows)
        if ends and epoch > self.whole:  # nothing was published behind the end of an epoch that belongs before it
            self.whole = epoch
            for lane in self._lanes.values():
                if lane.epoch < epoch:
                    self._cover(lane, lane.rows - lane.committed)

    def frontier(self) -> dict[str, Reached]:
        """Partition -> how far the attempt has come that was opened last, of those of the epoch that is under way."""
        return {lane.key: (lane.attempt, lane.spans[-1][1]) for lane in self._lanes.values() if lane.epoch == self._now}

    def lost(self) -> dict[str, list[Span]]:
        """Partition -> its rows that were published here and that no commit covers, if there are any."""
        out: dict[str, list[Span]] = {}
        for lane in self._lanes.values():
            rest = split(lane.spans, lane.committed)[1]
            if rest:
                out[lane.key] = join(out.get(lane.key, []), rest)
        return out

    def resumes(self) -> int:
        """Ends of an epoch that lie before every row that no commit covers.

        A program that does not stop at ends may have been handed rows of an epoch while some of the one before wait for their batch
        to be full: a commit then lies in the later epoch, and what is missing in the earlier one.
        """
        return min([self.epoch, *(lane.epoch for lane in self._lanes.values() if not self._covered(lane))])

    def position(self, epoch: int, ends: bool, handed: Mapping[int, int]) -> tuple[int, dict[int, dict[str, list[Span]]]]:
        """Where a program is that has come by so many ends of an epoch and was handed so many rows.

        Returns
        -------
        tuple
            The first epoch of which it has not got every row that was published before its end, and epoch -> partition -> rows
            that it was handed, for this epoch, the one before and those behind.
        """
        covered = {
            number: lane.rows if ends and lane.epoch < epoch else lane.committed + handed.get(number, 0)
            for number, lane in self._lanes.items()
        }
        first = min([epoch, *(lane.epoch for number, lane in self._lanes.items() if covered[number] < lane.rows)])
        out: dict[int, dict[str, list[Span]]] = {}
        for number, lane in self._lanes.items():
            begin = split(lane.spans, covered[number])[0]
            if begin and lane.epoch >= first - _LOOK_BACK:
                of_epoch = out.setdefault(lane.epoch, {})
                of_epoch[lane.key] = join(of_epoch.get(lane.key, []), begin)
        return first, out

    def _cover(self, lane: _Lane, rows: int) -> None:
        rows = min(rows, lane.rows - lane.committed)
        lane.committed += rows
        lane.tally.settled += rows
        self._total.settled += rows

    def _covered(self, lane: _Lane) -> bool:
        return lane.committed >= lane.rows
