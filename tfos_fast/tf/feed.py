"""The feed as a TensorFlow program sees it: rows, arrays, eager tensors that alias shared memory, and ``tf.data`` datasets.

TensorFlow is imported only by the methods that need it.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from tfos_fast.channel.codec.result_arrays import to_results
from tfos_fast.channel.reader.batch import Columns, Source
from tfos_fast.channel.reader.reader import Reader
from tfos_fast.channel.schema.columns import Column, Schema
from tfos_fast.errors import ChannelClosed, FormError
from tfos_fast.tf import dataset as datasets
from tfos_fast.tf import padding, specs
from tfos_fast.tf.declarations import MASK, column, is_whole, not_whole, null_policies, row_spec
from tfos_fast.tf.declarations import batch_size as size_of
from tfos_fast.tf.gpu import pin, tensorflow_gpu
from tfos_fast.tf.pipelines import Pipelines
from tfos_fast.tf.sources import BatchSources, Uneven
from tfos_fast.tf.tensors import alias, arrange_as_rows, arranger, columns_maker, tensor_maker, tensor_spec, tensorflow, to_tensor


class DataFeed:
    """What ``ctx.get_data_feed()`` gives to ``main``.

    One feed is read in one way: rows (``next_batch``) or columns (``batches``, ``tensors``, ``dataset``, ``poll``).

    Parameters
    ----------
    reader : Reader
        The channel's reader.

    Examples
    --------
    >>> feed = ctx.get_data_feed()                        # doctest: +SKIP
    >>> for images, labels in feed.tensors(256):          # doctest: +SKIP
    ...     step(images, labels)
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        reader.ahead.pipelines = reader.ahead.pipelines or Pipelines()
        self._sources = BatchSources(reader)
        self._pin_asked = False

    def should_stop(self) -> bool:
        """Whether the feed has ended and all rows were handed out. Does not wait.

        A thread that asks while another thread reads gets True when the reading thread has come back for more. While the program
        has an iterator over a dataset where ``tf.data`` reads ahead, its own or ``dataset()``, it gets False: the dataset ends
        by itself.
        """
        return self.reader.ended and not self._sources.waiting_rows and self.reader.may_stop()

    def next_batch(self, n: int) -> list[Any]:
        """The next ``n`` rows as they were fed, Python types included. Values are copied.

        Waits until there are ``n``; fewer come at the end of the feed, and in inference when nothing more has come for a moment.
        """
        try:
            return self.reader.next_rows(n)
        except (TypeError, ValueError):
            size_of(n)  # says what is wrong with it
            raise

    def batches(self, n: int, spec: Any = None, *, nulls: Any = None, uneven: Uneven = None) -> Iterator[Columns]:
        """Batches of ``n`` rows as numpy arrays, until the feed ends. Memory is not copied for aligned batches.

        Parameters
        ----------
        n : int
            Rows in a batch. Multiples of 64 keep every column aligned.
        spec : dict or tuple, optional
            See :func:`row_spec`: casts are done while packing.
        nulls : optional
            See :func:`null_policies`. Without one, columns with None are object arrays.
        uneven : {"stop", "pad"}, optional
            As for ``dataset``: one epoch, in step with other nodes. With ``"pad"`` there is a column ``sample_weight``.

        Yields
        ------
        dict
            Column name -> array of shape ``(n, *shape)``. The arrays may be kept: their memory is not reused before they are gone.
            Lists whose lengths differ are a :class:`~tfos_fast.values.ragged.Ragged`.
        """
        n = size_of(n)
        if uneven is None:
            self._open(n, spec, nulls, tensors=False)
            return self.reader.batches(n)
        source, _ = self._sources.in_step(uneven, n, spec, nulls)
        self._open(n, spec, nulls, tensors=False)

        def in_step() -> Iterator[Columns]:
            while (batch := source(1)) is not None:
                columns, batch = batch.columns, None
                yield columns
                del columns

        return in_step()

    def tensors(self, n: int, spec: Any = None, *, nulls: Any = None, uneven: Uneven = None) -> Iterator[Any]:
        """Batches of ``n`` rows as eager tensors, until the feed ends. Memory is not copied for aligned batches of numbers.

        Parameters
        ----------
        n, spec
            As for ``batches``.
        nulls : optional
            See :func:`null_policies`. Without one, None in a row is an error of the feed.
        uneven : {"stop", "pad"}, optional
            As for ``dataset``: one epoch, in step with other nodes.

        Yields
        ------
        tuple, dict or tensor
            A tuple where rows are tuples or lists, a dict where their columns have names, one tensor where they are bare values;
            the spec's structure where that is nested, without the columns that it does not name. First dimension: ``n``, or what is
            left at the end.
        """
        n = size_of(n)
        if uneven is not None:
            source, declared = self._sources.in_step(uneven, n, spec, nulls)
            self._open(n, spec, nulls, only=specs.is_nested(spec))
            columns = columns_maker()
            while (batch := source(1)) is not None:
                values = columns(batch)
                batch = None
                yield self._arranged(spec, declared, values)
                del values
            return
        self._open(n, spec, nulls, only=specs.is_nested(spec))
        make = None
        while (batch := self.reader.next_batch(n)) is not None:
            make = make or tensor_maker(self._schema(), spec)
            out = make(batch)
            batch = None  # the wait for the next one must not hold this one's slot
            yield out
            out = None

    def poll(self, n: int, timeout: float, spec: Any = None, *, nulls: Any = None) -> Any:
        """One batch as ``tensors`` gives it, or None when there is none within ``timeout`` seconds (see ``should_stop``)."""
        n = size_of(n)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
            raise ValueError(f"timeout is a number of seconds, 0 or more, not {timeout!r}")
        self._open(n, spec, nulls, only=specs.is_nested(spec))
        batch = self.reader.next_batch(n, timeout=timeout)
        return None if batch is None else tensor_maker(self._schema(), spec)(batch)

    def dataset(
        self,
        batch_size: int,
        spec: Any = None,
        drop_remainder: bool = False,
        shuffle: int = 0,
        seed: int | None = None,
        prefetch: int = 2,
        *,
        nulls: Any = None,
        uneven: Uneven = None,
    ) -> Any:
        """The feed as a ``tf.data.Dataset`` of batches. Memory is not copied for aligned batches of numbers in an eager loop, nor,
        for large ones, behind it.

        A loop over it in Python gets what ``tensors`` gives, without TensorFlow's pipeline; ``map``, ``fit``, ``tf.distribute``
        and functions get it through the pipeline. Each new iterator is the next epoch of the feed, or what the iterator before it
        left of this one. An epoch's last batch may be short. With Keras call ``fit`` once for each epoch: ``model.fit(ds,
        initial_epoch=e, epochs=e + 1)``. In one call of several epochs Keras takes as many batches in each as the first had, and
        epochs need not be equal, since Spark deals partitions to the nodes anew. Waits for the first rows, unless ``spec`` has
        every shape. Several nodes that train one model need :func:`tfos_fast.tf.distributed.distribute`.

        Parameters
        ----------
        batch_size : int
            Rows in a batch of this node. Multiples of 64 keep every column aligned.
        spec : dict or tuple, optional
            See :func:`row_spec`. A nested one, such as Keras's ``(features, labels)`` with a dict of features, gives batches its
            structure; columns that it does not name are left out. So does a flat one with every shape.
        drop_remainder : bool
            Leave out the short batch at an epoch's end; elements then say how many rows they have, as XLA wants it.
        shuffle : int
            Draw rows at random from a window of so many rows; 0: in the order of feeding. They are gathered straight from the slots
            where they lie: one copy in all. The window ends with the epoch.
        seed : int, optional
            The same seed draws the same rows if they come in the same order (from one partition at a time).
        prefetch : int
            Batches made ready by the pipeline ahead of the program, by a thread; ``tf.data.AUTOTUNE`` lets TensorFlow choose.
            Batches that alias a slot hold it meanwhile. An eager loop reads nothing ahead; ``.prefetch(2)`` behind the dataset
            does. Batches below 1 MiB come several together instead; behind a ``map`` of yours, ``prefetch`` runs it ahead. What
            was read ahead is lost with an iterator that is given up in mid-epoch (``take``, ``break``); so are small batches that
            were read together with the last one. With 0 nothing is read ahead.
        nulls : optional
            See :func:`null_policies`. Without one, None in a row is an error of the feed.
        uneven : {"stop", "pad"}, optional
            All nodes of the cluster have equally many batches in an epoch, however many rows Spark brings to each; every node has
            to ask for it, and ``spec`` must have every shape. A batch is handed out when all nodes can do its step, so no node
            waits in a step for one that has no rows. ``"stop"``: the epoch ends for all when the first has no more batches; what
            others have left is dropped, and told in the feed's report. ``"pad"``: it ends when every row was in a batch. Each
            batch has exactly ``batch_size`` rows, and weights: ``(x, y)`` becomes ``(x, y, sample_weight)``, as Keras takes it,
            any other structure ``(batch, sample_weight)``. Rows of weight 0 (zeros, empty texts) fill up short batches, and the
            batches of a node that has run dry. An iterator is to be read to its end, by all nodes.

        Raises
        ------
        SchemaMismatch
            A column holds Python objects, which are no tensor.
        ChannelClosed
            The feed ended without a row and ``spec`` does not say what rows would have been.
        FormError
            The spec is none, or names columns that the first one on this feed left out; or rows of an inference are to be shuffled.
        """
        return self._dataset(
            batch_size,
            spec,
            drop_remainder=drop_remainder,
            shuffle=shuffle,
            seed=seed,
            prefetch=prefetch,
            idle=None,
            nulls=nulls,
            uneven=uneven,
        )

    def _dataset(
        self,
        batch_size: int,
        spec: Any,
        *,
        drop_remainder: bool,
        shuffle: int,
        seed: int | None,
        prefetch: int,
        idle: float | None,
        nulls: Any = None,
        uneven: Uneven = None,
        group: int = 1,
    ) -> Any:
        """With ``idle`` a batch without rows comes whenever none has come for so many seconds; a step has ``group`` batches."""
        tf = tensorflow()
        batch_size = size_of(batch_size)
        declared = row_spec(spec)
        arrange: Callable[[dict[str, Any]], Any] = functools.partial(specs.arrange, specs.outline(spec))
        if shuffle is True or shuffle < 0:  # True would be a window of one row
            raise ValueError(f"shuffle={shuffle}: give the rows of the window to draw from, such as 10000, or 0 for none")
        if shuffle and not self.reader.train:
            raise FormError("rows of an inference are not shuffled: results go back in their order")
        known = is_whole(declared, nulls)
        source: Source | None = None
        handed = self._sources.begin(ordered=not shuffle)
        if uneven is not None:
            source, _ = self._sources.in_step(uneven, batch_size, spec, nulls, group, shuffle, seed, drop_remainder, known=True)
        schema = self._open(batch_size, spec, nulls, wait=not known and idle is None, only=known or specs.is_nested(spec))
        if known:
            single = {name: tensor_spec(column(name, *part)) for name, part in declared.items()}
        else:
            if idle is not None:
                raise not_whole(spec)
            if schema is None:
                raise ChannelClosed(
                    "the feed ended without a row for this process (fewer partitions than nodes?): repartition the data, or say "
                    "what its elements would be, with shapes: dataset(..., spec={'x': ('float32', (784,)), 'y': ('int32', ())})"
                )
            nested = specs.is_nested(spec)
            by_place = specs.is_positional(spec) and not declared.keys() <= set(schema.names)
            names = set(schema.names) if by_place else set(declared)
            single = {each.name: tensor_spec(each) for each in schema.outputs if not nested or each.name in names}
            arrange = arranger(schema, spec)
        if not self.reader.train:
            prefetch = 0  # a thread that waits for rows would keep results from going back
        if source is None:
            source = handed.of(self._sources.source(batch_size, shuffle, seed, idle))
            source = self._sources.by_place(source, spec) if known else source
        if uneven == "pad":
            single[padding.WEIGHT] = tf.TensorSpec((None,), tf.float32)
            arrange = padding.weighted(arrange)
        return datasets.make(
            tf,
            source,
            single,
            arrange,
            to_tensor,
            columns_maker(),
            batch_size,
            drop_remainder=drop_remainder,
            prefetch=prefetch,
            empty=idle is not None,
            full=uneven == "pad",
            handed=handed,
        )

    def _arranged(self, spec: Any, declared: list[Column], values: dict[str, Any]) -> Any:
        weight = values.pop(padding.WEIGHT, None)
        if declared:
            out = specs.arrange(specs.outline(spec), {each.name: values[each.name] for each in declared})
        else:
            out = arrange_as_rows(self._schema(), values)
        return out if weight is None else padding.with_weight(out, weight)

    def batch_results(self, results: Any) -> None:
        """Inference: one result for each row handed out, in the same order.

        Parameters
        ----------
        results : sequence, array, tensor, dict, tuple, or Series or DataFrame of pandas
            A list (or another sequence): its items are the results, and come back as they are, types included.
            A numpy array or eager tensor: the result of row ``i`` is ``results[i]``, an array, or a Python number where that has no
            dimension. A dict of these (or of lists), or a DataFrame: the results are dicts of the columns' values. A tuple of
            arrays: tuples.
            Arrays of numbers are copied as memory, and become columns of a DataFrame without passing through rows.

        Raises
        ------
        ValueError
            There are more results than rows without one, columns differ in length, or the results are no sequence.
        """
        self.reader.write_results(to_results(results))

    def commit(self, batches: int | None = None) -> None:
        """A checkpoint that was just saved covers the rows that this program was handed so far.

        When the trainer dies and is started again (``max_restarts``), it gets the rows that came after its last commit; without a
        commit, all that it ever got. To be called when the checkpoint is safe: when this returns, the node knows. A death between
        the two brings rows again that the checkpoint covers.

        Parameters
        ----------
        batches : int, optional
            For a ``dataset()`` that TensorFlow reads ahead (``map``, ``fit``, functions): the checkpoint was made behind so many
            batches of the newest iterator (of Keras, ``batch + 1`` in ``on_train_batch_end``). Without it ``dataset()`` has to be
            at the end of an epoch, and the program, too. The other ways of reading hand out nothing ahead: everything that they
            gave is covered, also rows of an epoch that a shuffle or ``uneven=`` has left unused.

        Raises
        ------
        FormError
            ``dataset()`` is in mid-epoch and no number was given, or it is none of this iterator's; the rows are drawn from a
            shuffle window, which can be committed at the end of an epoch only; or it is an inference.
        """
        self.reader.commit(*self._sources.covered(batches))

    def position(self, batches: int | None = None) -> dict[str, Any]:
        """How far this node's program has come: to be saved with a checkpoint, and given to ``cluster.feed(position=)`` later.

        Parameters
        ----------
        batches : int, optional
            As for ``commit``.

        Returns
        -------
        dict
            Of plain values, as JSON has them: ``epoch``, the number of the epoch among all that the application feeds, and
            ``rows``: epoch -> partition -> spans of the rows that this node's program was handed, for this epoch and the one
            before.

        Raises
        ------
        FormError
            As for ``commit``.
        """
        epoch, rows = self.reader.position(*self._sources.covered(batches))
        partitions = {
            str(number): {key.rpartition("/")[2]: [list(span) for span in spans] for key, spans in parts.items()}
            for number, parts in rows.items()
        }
        return {"epoch": epoch, "rows": partitions}

    def terminate(self) -> None:
        """Want no more rows: feeding to this node ends soon, what is queued is dropped."""
        self.reader.terminate()
        self._sources.clear()

    def _open(
        self, n: int, spec: Any, nulls: Any, *, tensors: bool = True, wait: bool = False, only: bool = False
    ) -> Schema | None:
        if tensors:
            self._pin()
        policies = null_policies(nulls)
        positional = specs.is_positional(spec)
        declared = row_spec(spec)
        return self.reader.open_columns(n, declared, nulls=policies, tensors=tensors, only=only, positional=positional, wait=wait)

    def _schema(self) -> Schema:
        schema = self.reader.schema
        assert schema is not None
        return schema

    def _pin(self) -> None:
        """Once, before the first tensor: on a GPU node the slots become pinned memory; see :mod:`tfos_fast.tf.gpu`."""
        if self._pin_asked:
            return
        self._pin_asked = True
        pinned = pin(self.reader.segment.mapping, ordinal=lambda: tensorflow_gpu(tensorflow()))
        if pinned is not None:
            end = weakref.finalize(self.reader, pinned.close)  # whether it is closed or just dropped
            end.atexit = False  # the driver frees everything by itself, and may have shut down before us
            self.reader.on_close = end


__all__ = ["MASK", "DataFeed", "alias", "null_policies", "row_spec", "tensorflow", "to_tensor"]
