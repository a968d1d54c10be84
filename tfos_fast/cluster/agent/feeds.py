"""The feeds of one node by name: each has a segment, slots and a schema of its own, so that none takes another's place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from tfos_fast.channel.broker.broker import Broker
from tfos_fast.channel.broker.feed import Loss
from tfos_fast.channel.codec.fingerprint import Proof
from tfos_fast.channel.host.segment import Segment, parse_bytes
from tfos_fast.channel.protocol import messages as channel_messages
from tfos_fast.cluster.protocol import handover as h
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.feed_keys import check_name
from tfos_fast.errors import ClusterError

LEAST_SLOTS = 4
MOST_FEEDS = 64  # of one node; each takes memory


class Deaths(Protocol):
    """Who knows how readers die."""

    def explain_death(self, pid: int) -> channel_messages.Failed | None:
        """Words for a dead reader."""

    def ended_well(self, pid: int) -> bool:
        """Whether a dead reader has done its work."""


class NamedFeeds:
    """The brokers of a node. Those of named feeds are made when first asked for, and are served by the default feed's loop.

    Parameters
    ----------
    config : AgentConfig
        ``feeds`` says how much memory named feeds have; without it, a quarter of the default feed's slots each, at least four.
    default : Broker
        Of the default feed, whose name is empty.
    on_open, on_partition_done : callable
        Hooks as of the default feed.
    deaths : Deaths
        Explains how a reader died.
    send : callable
        Sends a message to the coordinator.
    """

    def __init__(
        self,
        config: h.AgentConfig,
        default: Broker,
        on_open: Callable[..., None],
        on_partition_done: Callable[[str, int, int, Proof], None],
        deaths: Deaths,
        send: Callable[[m.ControlMessage], None],
    ) -> None:
        self.demands: dict[str, m.Demand] = {}  # not yet answered by an end of epoch
        self._read = 0  # rows of named feeds that trainers took which are dead
        self._config = config
        self._brokers = {"": default}
        self._hooks: dict[str, Any] = {
            "on_partition_done": on_partition_done,
            "explain_death": deaths.explain_death,
            "ended_well": deaths.ended_well,
        }
        self._on_open = on_open
        self._send = send

    def broker(self, name: str) -> Broker:
        """Of this feed; made if it is new.

        Raises
        ------
        ClusterError
            It is no name.
        NotEnoughMemory
        """
        if name not in self._brokers:
            if len(self._brokers) > MOST_FEEDS:
                raise ClusterError(f"the node has {MOST_FEEDS} named feeds, and more are not served: {name!r:.80}")
            try:
                self._brokers[name] = self._make(check_name(name))
            except ValueError as error:
                raise ClusterError(str(error)) from None
        return self._brokers[name]

    def _make(self, name: str) -> Broker:
        default = self._brokers[""]
        slot = default.segment.slot_bytes
        memory = self._config.feeds.get(name)
        size = parse_bytes(memory) if memory is not None else default.segment.n_slots // 4 * slot
        broker = Broker(Segment.create(max(size, LEAST_SLOTS * slot), slot), on_open=self._on_open, host=default)
        for hook, call in self._hooks.items():
            setattr(broker, hook, call)
        broker.feed.on_demand = lambda epoch, ends: self._demand(m.Demand(name, epoch, ends))
        broker.on_stalled = default.on_stalled
        broker.on_control = default.on_control  # its feed tasks tell of rows that cannot be fed
        broker.feed.recovers = default.feed.recovers
        broker.on_terminated = lambda _: self._demand(m.Demand(name, m.LEFT, True))
        # The node's program has ended or failed: whoever comes later hears it.
        if default.feed.failure is not None:
            broker.feed.fail(default.feed.failure)
        return broker

    def _demand(self, demand: m.Demand) -> None:
        self.demands[demand.feed] = demand
        self._send(demand)

    def recover(self) -> None:
        """From now on a dead reader has a successor. The default feed remembers what it has delivered since the last commit."""
        self._brokers[""].feed.deliveries.keep = True
        for broker in self.all():
            broker.feed.recovers = True

    def restart(self) -> Loss:
        """The readers are dead; what of the default feed has to come again. Of named feeds nothing is repeated."""
        self.demands.clear()
        self._read = self._rows
        return next(iter([broker.restart() for broker in self.all()]))

    def repeat(self) -> None:
        """Tell again which readers have nothing: an evaluation that was left unfinished goes on when one of them asks."""
        for name, demand in self.demands.items():
            if self.broker(name).feed.demanded or demand.epoch == m.LEFT:
                self._send(demand)

    def all(self) -> Iterator[Broker]:
        """Every broker there is."""
        yield from self._brokers.values()

    @property
    def progress(self) -> int:
        """Of the named feeds together."""
        return sum(broker.feed.progress for name, broker in self._brokers.items() if name)

    @property
    def _rows(self) -> int:
        """Of named feeds, that this trainer and those before it took. Unlike those of the default one, they do not come again."""
        totals = [broker.feed.total for name, broker in self._brokers.items() if name]
        return self._read + sum(total.taken - total.settled for total in totals)

    @property
    def newest(self) -> m.Fed:
        """What was had of the newest feed of the default one."""
        tally = self._brokers[""].feed.newest
        return m.Fed(tally.number, tally.taken, tally.published - tally.taken, tally.unused)

    @property
    def totals(self) -> m.Totals:
        """Of all feeds together."""
        feeds = [broker.feed for broker in self._brokers.values()]
        return m.Totals(sum(f.bytes for f in feeds), sum(f.starved for f in feeds), sum(f.blocked for f in feeds), self._rows)

    def end_epoch(self, name: str) -> None:
        """Put an end-of-epoch mark behind everything that is queued."""
        self.demands.pop(name, None)
        broker = self.broker(name)
        if not broker.feed.ended:
            broker.end_epoch()

    def end_feed(self, name: str) -> None:
        """Put the end of the feed behind everything that is queued."""
        self.demands.pop(name, None)
        self.broker(name).end_feed()
