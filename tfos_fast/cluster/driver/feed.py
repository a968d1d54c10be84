"""Feeding a running cluster: feed, offer, infer."""

from __future__ import annotations

import logging
import operator
import secrets
import time
from collections.abc import Sequence
from typing import Any

from tfos_fast.cluster.coordinator.node_state import early_nodes
from tfos_fast.cluster.driver.epochs import ORDER_TIMEOUT, Epoch, Epochs
from tfos_fast.cluster.driver.infer import infer_frame
from tfos_fast.cluster.driver.named_feeds import Offer
from tfos_fast.cluster.driver.positions import start_of
from tfos_fast.cluster.driver.replay import EpochEnds, EpochReplay, check_keep, epoch_seed
from tfos_fast.cluster.driver.report import FeedReport
from tfos_fast.cluster.driver.seconds import seconds
from tfos_fast.cluster.driver.source import check_data, check_engine, source_of
from tfos_fast.cluster.files.splits import Order
from tfos_fast.cluster.protocol.feed_keys import check_name, job_of
from tfos_fast.cluster.spark.dataframe import is_frame
from tfos_fast.cluster.spark.pickled_rdd import loads_of, pickled_batches
from tfos_fast.cluster.tasks.infer import Inferrer

log = logging.getLogger("tfos_fast.cluster")


def _whole(epochs: Any) -> int:
    number = operator.index(epochs) if hasattr(epochs, "__index__") else 0
    if number < 1:
        raise ValueError(f"epochs must be a whole number, 1 or more, not {epochs!r}")
    return number


class Feeding(Epochs):
    """How Spark's data gets to the nodes of a cluster. :class:`Cluster` is what users see."""

    def feed(
        self,
        data: Any,
        epochs: int = 1,
        *,
        keep: str | None = None,
        keep_limit: int | str | None = None,
        shuffle: bool = False,
        seed: int | None = None,
        exactly_once: bool = True,
        position: Any = None,
        feed_timeout: float = 600.0,
    ) -> FeedReport:
        """Feed every row to the nodes; returns when a trainer's process has taken each.

        Each epoch is one Spark job over ``data``. Rows of a partition go to one node, in order; a task that is tried again
        skips what was delivered before. A node whose ``main`` returns, or calls ``terminate()``, ends early: what was queued
        for it is dropped and told in the report.

        Parameters
        ----------
        data : RDD, DataFrame or Parquet
            A DataFrame goes as Arrow batches, without passing through Python rows; an RDD that Spark stores as pickled batches
            (cached, checkpointed, or from ``parallelize``, ``repartition``, ``union``) is read from these without unpickling;
            files of :func:`tfos_fast.parquet` are read by the tasks without the JVM.
        epochs : int
        keep : {"memory", "disk"}, optional
            Only the first epoch is a Spark job. Each trainer keeps the packed rows that it got, in memory or in an unlinked file in
            Spark's local folder (``spark.local.dir``), and gets them from there later: a node has the same rows in each epoch.
            Batches alias what is kept, and writing into them changes nothing for the next epoch. It is given up with the feed.
        keep_limit : int or str, optional
            Bytes that a node may keep, as ``"4g"``. Default: half of the memory (of the container or machine) or disk that is free
            when the feed begins. What does not fit raises NotEnoughMemory or StoreFull in the trainer, and so NodeFailed here.
        shuffle : bool
            A new order of the partitions in each epoch, without a Spark shuffle: the tasks of the epoch's job are launched in that
            order. A task that prefers the executor that has its partition cached may be launched earlier or later, and such a
            partition stays with its executor's node. Rows inside a partition keep their order: mix them in ``main``. With ``keep``
            later epochs replay the kept slots in a new order each, and the batches in neighbouring slots mixed.
        seed : int, optional
            Gives the same orders each time. Without it every feed has orders of its own.
        exactly_once : bool
            A task that is tried again leaves out the rows that were delivered before; a few values of these are compared, and the
            data of a partition must come out the same each time it is computed. False: such a task begins at the first row, and
            rows may come twice.
        position : dict or sequence of dict, optional
            Where an earlier application was, as ``feed.position()`` told each of its nodes: rows that any of them had are left out.
            The data has to be the same, in the same partitions. Epochs are counted over all calls of ``feed`` of an application:
            give it to each call, and those that were over end at once.
        feed_timeout : float
            Seconds without any movement, though rows wait, after which the feed is given up.

        Returns
        -------
        FeedReport

        Raises
        ------
        NodeFailed
            ``main`` raised; carries the remote traceback. :class:`NodeKilled` when a process was killed.
        StallTimeout
        NonDeterministicPartition
            A partition came out different when a task was tried again.
        SchemaMismatch, RowTooLarge, NoNodeOnHost
            A feed task could not go on.
        SourceError
            Files cannot be read.
        """
        check_data(data, "feed")
        self._check(running="feed")
        epochs = _whole(epochs)
        feed_timeout = seconds(feed_timeout, "feed_timeout")
        limit = check_keep(keep, keep_limit)
        if self._max_restarts and (keep is not None or not exactly_once):
            raise ValueError(
                "keep= and exactly_once=False do not go with max_restarts: what a trainer keeps ends with it, and rows that come "
                "again must be told from those that came"
            )
        start = start_of(position)
        if start.epoch > self._epochs != self._skipped:
            raise ValueError(
                f"the position is in epoch {start.epoch}, and this cluster was fed {self._epochs} epochs without it: epochs "
                "are counted over all calls of feed, so give the position to each of them"
            )
        source = source_of(self._engine, data, shuffle=shuffle)
        seed = secrets.randbits(62) if seed is None else seed
        self._keep(keep if epochs > 1 else None, limit)
        self._feeds += 1
        begin = time.monotonic()
        states = self._coordinator.nodes
        fed_epochs, last = 0, self._epochs + epochs - 1
        before = {name: state.begun for name, state in states.items()}
        taken = self._come_to(self._epochs)  # nodes that were started again since the last feed
        fed: list[Epoch] = []
        for epoch in range(epochs):
            newest = self._epochs
            self._epochs += 1
            if newest < start.epoch:
                self._coordinator.skip_epoch(newest, ORDER_TIMEOUT)
                self._skipped += 1
                continue
            fed_epochs += 1
            try:
                if keep is not None and fed:
                    names = [node.name for node in self._fed_nodes]
                    self._coordinator.begin_epoch("", newest)
                    replay = EpochReplay(self._coordinator, names, epoch_seed(seed, epoch) if shuffle else None)
                    self._coordinator.finish_epoch()
                    self._watch(replay, stall=feed_timeout)
                    self._watch(EpochEnds(self._coordinator), stall=feed_timeout)
                    self._end_epoch(newest)
                else:
                    words = f"feed {self._feeds}, epoch {epoch + 1} of {epochs}"
                    order = Order(seed, epoch) if shuffle else None
                    fed.append(Epoch(newest, job_of(self._feeds, epoch), words, source, order, exactly_once, feed_timeout))
                    self._coordinator.cover(fed[-1].job, start.rows.get(newest, {}))
                    self._history[newest] = fed[-1]
                    taken = self._come_to(self._epochs) or taken
                    if not self._max_restarts:
                        del self._history[newest]  # it will not come again
            except BaseException:  # Ctrl-C, too
                self._give_up(newest)
                raise
            if not any(state.eats for state in states.values()):
                break
        self._check()
        self._keep(None, 0)
        while True:
            lives = self._lives()
            taken = self._come_to(self._epochs) or taken
            if taken is not None and (any(part.made_way for part in fed) or self._coordinator.steps.wanted or self._rows_wait()):
                self._watch(taken, stall=feed_timeout)
            self._check()
            with self._coordinator.changed:
                if lives == self._lives(wait=False):  # else a trainer has died: rows that were counted come again
                    report = self._report_feed(fed, fed_epochs, last, before, begin)
                    break
        if report.ended_early:
            log.warning("the feed ended early at some nodes: %s", report)
        return report

    def _rows_wait(self) -> bool:
        """Whether rows of the newest feed are with a node that takes rows, and not with its trainer.

        A task waits for the rows that it has published. For those of an attempt that was killed, after which another one went on at
        another node, none waits.
        """
        with self._coordinator.changed:
            return any(state.eats and state.had(self._feeds).left for state in self._coordinator.nodes.values())

    def _report_feed(self, fed: list[Epoch], epochs: int, last: int, before: dict[str, int], begin: float) -> FeedReport:
        """What came of a feed. Under the coordinator's lock.

        Parameters
        ----------
        fed : list of Epoch
            Those that Spark fed.
        epochs : int
            How many were fed, replayed ones included.
        last : int
            Number of the epoch that was to be the last one.
        before : dict
            Node -> how many partitions had come to it before.
        begin : float
            When it began.
        """
        coordinator = self._coordinator
        states = {node.name: coordinator.nodes[node.name] for node in self._fed_nodes}
        had = {name: state.had(self._feeds) for name, state in states.items()}
        rows = {name: counts.taken - counts.unused for name, counts in had.items()}
        whole = all(self._is_whole(part) for part in fed)
        missed = {name for part in fed for name in part.missed}
        early = early_nodes(states, self._feeds, last, before, whole=whole, missed=missed)
        return FeedReport(
            rows=sum(rows.values()),
            seconds=time.monotonic() - begin,
            epochs=epochs,
            partitions=sum(len(part.whole - coordinator.unfinished(part.job)) for part in fed),
            rows_of_node=rows,
            ended_early={name: states[name].why_early for name in early},
            rows_left={name: counts.left for name, counts in had.items() if counts.left},
            rows_unused={name: counts.unused for name, counts in had.items() if counts.unused},
        )

    def offer(
        self, data: Any, name: str, *, epochs: int | None = None, together: float = 30.0, feed_timeout: float = 600.0
    ) -> None:
        """Offer data as a named feed, for validation beside training. Returns at once.

        Readers start its epochs: when a program begins the next iteration of ``ctx.get_data_feed(name=name).dataset(...)``, the
        data is evaluated by one Spark job and dealt to the nodes that ask. The first one that asks waits for the others that
        read this feed (``together``); who comes later gets an evaluation of its own. Every row comes once in an
        evaluation. Meanwhile tasks of ``feed()`` that only wait for their trainers end early, and are continued afterwards. Demands
        are served until every ``main`` has returned.

        Parameters
        ----------
        data : RDD or DataFrame
        name : str
        epochs : int, optional
            So many evaluations and no more: whoever asks for another one waits for a further offer or for the end of the feed at
            shutdown. They are made even when shutdown has been called, for programs that ask only then; a second offer of the same
            name comes behind them.
        together : float
            Seconds that the first node that asks waits for the others: at first for every node, later for those of the evaluation
            before. Make it short where only some nodes read this feed, or nodes ask at different times.
        feed_timeout : float
            Seconds without any movement after which an evaluation is given up.
        """
        check_data(data, "offer")
        self._check(running="offer")
        check_engine(self._engine, data)
        epochs = None if epochs is None else _whole(epochs)  # None: as many as are asked for
        feed_timeout, together = seconds(feed_timeout, "feed_timeout"), seconds(together, "together", zero=True)
        self._offers.add(Offer(check_name(name), data, feed_timeout, together, epochs))

    def train(self, data: Any, num_epochs: int = 1, *, feed_timeout: float = 600.0) -> FeedReport:
        """Another name of :meth:`feed`."""
        return self.feed(data, num_epochs, feed_timeout=feed_timeout)

    def infer(
        self,
        data: Any,
        *,
        schema: Any = None,
        keep: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        feed_timeout: float = 600.0,
    ) -> Any:
        """Results of ``main`` for every row, in order, one for one; lazily, as Spark's transformations are.

        Parameters
        ----------
        data : RDD or DataFrame
        schema : StructType or str, optional
            Columns of the results, for a DataFrame. Without it some first rows are sent through ``main`` at once, and the columns
            are those of their results: names of a Row or dict, ``_1``, ``_2``, ... of a tuple, ``result`` of a single value.
        keep : sequence of str, optional
            Columns of the DataFrame that go before the results, unchanged.
        columns : sequence of str, optional
            Columns of the DataFrame that ``main`` gets; default: all of them, kept ones too.
        feed_timeout : float
            Seconds without any movement, though rows wait, after which a task is given up.

        Returns
        -------
        RDD or DataFrame
            As ``data`` was. It can be evaluated as often as you like, until the cluster is shut down. When ``main`` fails, the
            action that evaluates it raises Spark's error; leaving the cluster's ``with`` block then raises what has happened.
        """
        check_data(data, "infer")
        self._check(running="infer")
        check_engine(self._engine, data)
        feed_timeout = seconds(feed_timeout, "feed_timeout")
        inferrer = Inferrer(self._fed_nodes, self._coordinator.keys, feed_timeout, self._engine.rdds)
        self._inferences.begin()
        if is_frame(data):
            try:
                return infer_frame(data, inferrer, schema, columns, keep)
            except Exception as error:  # of the job that learns the columns
                if (ours := self._explain(error)) is error:
                    raise
                raise ours from None
        if schema is not None or keep is not None or columns is not None:
            raise TypeError("infer(schema=, keep=, columns=) are for DataFrames; the results of an RDD are an RDD")
        batches = pickled_batches(data)
        if batches is not None:
            return batches.mapPartitionsWithIndex(inferrer.pickled(loads_of(data)))
        return data.mapPartitionsWithIndex(inferrer.rows, preservesPartitioning=False)

    inference = infer
