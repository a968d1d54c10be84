"""Named feeds in the driver: an evaluation of the offered data, one Spark job, whenever readers ask for their next epoch.

Spark gives cores to the older job first, and a feed task that waits for its reader holds one. So while an evaluation runs, tasks of
the default feed that only wait end early, and later ones at their start; what they left is fed by a further job afterwards.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.driver.source import Source
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.failures import check_rows, unfit
from tfos_fast.cluster.protocol.feed_keys import OFFERED
from tfos_fast.cluster.spark.jobs import SparkJob
from tfos_fast.cluster.tasks.feed import Feeder

log = logging.getLogger("tfos_fast.cluster")

ORDER_TIMEOUT = 60.0
UNOFFERED = 10.0  # seconds that a reader waits for what nobody offers before a warning: the driver may be about to


@dataclass
class Offer:
    """Data under a name."""

    name: str
    data: Any
    feed_timeout: float
    together: float  # seconds that the first node's demand waits for the others that read this feed
    epochs: int | None = None  # evaluations, which are made even when feeding has ended; None: as many as are asked for till then
    epoch: int = 0
    job_name: str = ""
    left: frozenset[int] = frozenset()  # partitions of an evaluation whose readers have enough for now
    members: set[str] = field(default_factory=set)  # nodes that were in the last evaluation
    lives: dict[str, int] = field(default_factory=dict)  # how often each of them had been started again by then
    asked: float | None = None  # when the first demand of the next evaluation was seen

    @property
    def used_up(self) -> bool:
        """Whether the last evaluation was made."""
        return self.epochs is not None and self.epoch >= self.epochs and not self.left


class Offers:
    """A thread that answers the demands of named feeds, one evaluation at a time.

    Parameters
    ----------
    coordinator : Coordinator
    nodes : tuple of NodeInfo
    source : callable
        ``source(data)`` tells how it is fed.

    Attributes
    ----------
    busy : bool
        An evaluation runs, and the default feed makes way.
    error : Exception or None
        Why no evaluation can be made any more.
    """

    def __init__(self, coordinator: Coordinator, nodes: tuple[m.NodeInfo, ...], source: Callable[[Any], Source]) -> None:
        self.busy = False
        self.error: Exception | None = None
        self._coordinator = coordinator
        self._nodes = nodes
        self._source = source
        self._offers: dict[str, Offer] = {}
        self._later: dict[str, list[Offer]] = {}  # behind one whose evaluations are counted
        self._serial = itertools.count()
        self._asked: dict[str, float] = {}  # feeds that were asked for and are not offered -> since when; inf: it was told
        self._ending = False  # readers that do not stop at the end of an epoch get the end of the feed
        self._stopped = False
        self._thread: threading.Thread | None = None

    def add(self, offer: Offer) -> None:
        """Register the data; an offer of the same name is replaced from the next evaluation on, or when it is used up."""
        with self._coordinator.changed:
            before = self._offers.get(offer.name)
            if before is None or before.epochs is None:
                self._offers[offer.name] = offer
            else:
                self._later.setdefault(offer.name, []).append(offer)
            self._start()

    def end(self) -> None:
        """No more feeding: who waits for what nobody offers, or reads on over the ends of epochs, gets the end of the feed."""
        with self._coordinator.changed:
            self._ending = True
            self._start()

    def unoffered(self) -> dict[str, str]:
        """Feeds that readers wait for and nobody offers -> that in words."""
        asked: dict[str, list[str]] = {}
        for node, state in self._coordinator.nodes.items():
            for name, demand in list(state.demands.items()) if state.eats else ():
                offer = self._offers.get(name)
                if demand.epoch != m.LEFT and (offer is None or (offer.used_up and not self._later.get(name))):
                    asked.setdefault(name, []).append(node)
        there = ", ".join(map(repr, sorted(self._offers))) or "none"
        near = {name: get_close_matches(name, list(self._offers), 1) for name in asked if name not in self._offers}
        return {
            name: f"{', '.join(sorted(nodes))} wait{'s' if len(nodes) == 1 else ''} for the feed {name!r}, "
            + (f"and its offer(epochs={self._offers[name].epochs}) is used up" if name in self._offers else "which is not offered")
            + f" (offered: {there}); "
            + (f"did you mean {near[name][0]!r}? Otherwise " if near.get(name) else "")
            + f"cluster.offer(data, {name!r}) offers it"
            for name, nodes in asked.items()
        }

    def warn(self) -> None:
        """Log once that readers wait for what nobody offers, when they have done so for a while."""
        now = time.monotonic()
        found = self.unoffered()
        self._asked = {name: self._asked.get(name, now) for name in found}
        for name, text in found.items():
            if now - self._asked[name] > UNOFFERED:
                self._asked[name] = float("inf")
                log.warning(text)

    def stop(self) -> None:
        """End the thread and its job."""
        with self._coordinator.changed:
            self._stopped = True
            self._coordinator.changed.notify_all()
        if self._thread is not None:
            self._thread.join(10)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tfos-offers", daemon=True)
            self._thread.start()
        self._coordinator.changed.notify_all()

    @property
    def _over(self) -> bool:
        return self._stopped or self._coordinator.failure is not None

    def _run(self) -> None:
        changed = self._coordinator.changed
        try:
            while True:
                with changed:
                    while not self._over and (todo := self._next()) is None:
                        changed.wait(0.2)
                    if self._over:
                        return
                assert todo is not None
                name, demands, offer = todo
                if offer is None:
                    self._end_feed(name, demands)
                else:
                    self._evaluate(offer, demands)
        except Exception as error:  # noqa: BLE001  # the driver's own thread raises it
            with changed:
                if not self._over:
                    self.error = error
                self.busy = False
                changed.notify_all()

    def _next(self) -> tuple[str, dict[str, m.Demand], Offer | None] | None:
        """The feed that is to be served now, who asked, and the data (None: its readers get the end)."""
        states = self._coordinator.nodes.items()
        eating = {name: state for name, state in states if state.fed and not (state.ended or state.gone)}
        for name in sorted({name for state in eating.values() for name in state.demands}):
            demands = {node: state.demands[name] for node, state in eating.items() if name in state.demands}
            offer = self._current(name)
            if offer is not None and offer.left and not self._remaining(offer):
                offer.left, offer.members = frozenset(), set()  # who was started again begins with an evaluation of its own
                self._coordinator.end_job(offer.job_name)
            if offer is not None and offer.left:
                if offer.members & set(demands):
                    return name, demands, offer
                continue
            demands = {node: demand for node, demand in demands.items() if demand.epoch != m.LEFT}
            if self._ending and (offer is None or offer.epochs is None or offer.used_up):
                last = {node: demand for node, demand in demands.items() if offer is None or offer.used_up or not demand.ends}
                if last:
                    return name, last, None
            if offer is None or offer.used_up or not demands:
                continue
            now = time.monotonic()
            offer.asked = offer.asked or now
            company = (offer.members or set(eating)) & set(eating)
            if company <= set(demands) or now - offer.asked > offer.together:
                return name, demands, offer
        return None

    def _remaining(self, offer: Offer) -> set[str]:
        """The nodes of an evaluation that have not been started again since it began."""
        restarts = self._coordinator.restarts
        return {name for name in offer.members if not restarts.under_way(name) and restarts.life(name) == offer.lives.get(name)}

    def _current(self, name: str) -> Offer | None:
        offer = self._offers.get(name)
        while offer is not None and offer.used_up and self._later.get(name):
            offer = self._offers[name] = self._later[name].pop(0)
        return offer

    def _evaluate(self, offer: Offer, demands: dict[str, m.Demand]) -> None:
        """Run an evaluation, or the rest of one, until it is done or its readers have enough for now."""
        if not offer.left:
            offer.asked, offer.members = None, set(demands)
            offer.lives = {name: self._coordinator.restarts.life(name) for name in demands}
            offer.epoch += 1
            offer.job_name = f"{OFFERED}{offer.name}/{next(self._serial)}"
        offer.members = self._remaining(offer)
        members = tuple(node for node in self._nodes if node.name in offer.members)
        if not members:
            return
        everybody = [node.name for node in self._nodes]
        self.busy = True
        try:
            self._order(everybody, lambda number: m.YieldTasks(number, True))
            feeder = Feeder(
                members, self._coordinator.keys, offer.job_name, offer.feed_timeout, name=offer.name, only=offer.left or None
            )
            source = self._source(offer.data)
            title = f"feed {offer.name}, epoch {offer.epoch}"
            job = SparkJob(source.engine, title, source.action(feeder), self._coordinator.changed)
            with self._coordinator.changed:
                while not (job.done or self._over or offer.job_name in self._coordinator.unfit):
                    self._coordinator.changed.wait(0.5)
            if not job.done:
                job.cancel()
                if offer.job_name in self._coordinator.unfit:
                    raise unfit(*self._coordinator.unfit[offer.job_name])
                return
            if job.error is not None:
                raise job.error
            check_rows(job.result)
            self._forget(offer.name, demands)
            offer.left = frozenset(result.partition for result in job.result if not result.over)
            if not offer.left:
                self._coordinator.end_job(offer.job_name)
                self._order(self._remaining(offer), lambda number: m.EndEpoch(number, offer.name))
        finally:
            if not self._over:
                self._order(everybody, lambda number: m.YieldTasks(number, False))
            with self._coordinator.changed:
                self.busy = False
                self._coordinator.changed.notify_all()

    def _end_feed(self, name: str, demands: dict[str, m.Demand]) -> None:
        self._order(demands, lambda number: m.EndFeed(number, name))
        self._forget(name, demands)

    def _forget(self, name: str, demands: dict[str, m.Demand]) -> None:
        """These were answered; agents repeat what is still wanted."""
        with self._coordinator.changed:
            for node in demands:
                self._coordinator.nodes[node].demands.pop(name, None)

    def _order(self, names: Any, make: Callable[[int], Any]) -> None:
        self._coordinator.order(list(names), make, ORDER_TIMEOUT)
