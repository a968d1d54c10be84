"""The feed as a TensorFlow program sees it: rows, arrays, eager tensors that alias shared memory, and ``tf.data`` datasets.

TensorFlow is imported only by the methods that need it.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from tfos_fast import datasets, padding, specs
from tfos_fast._convert import dtype_of
from tfos_fast._nested import ANY_LENGTH, TEXTS
from tfos_fast.channel.aligned import Values, is_aligned
from tfos_fast.channel.assembler import Batch, Columns
from tfos_fast.channel.blocks import to_results
from tfos_fast.channel.lattice import EVERY, Nulls
from tfos_fast.channel.pace import Pace
from tfos_fast.channel.ragged import Ragged
from tfos_fast.channel.reader import Reader, Spec
from tfos_fast.channel.schema import Column, Schema
from tfos_fast.channel.stepper import Stepper
from tfos_fast.errors import ChannelClosed, FormError, MissingDependency, SchemaMismatch
from tfos_fast.handed import Handed
from tfos_fast.pinned import pin, tensorflow_gpu


class _Mask:
    """The policy for nulls that keeps them: zeros, and a column of bools that says which rows have a value."""

    def __repr__(self) -> str:
        return "MASK"


#: For ``nulls=``: a column of bools, called ``<name>_mask``, says which rows have a value; the others hold zeros.
MASK = _Mask()


@functools.cache
def tensorflow() -> Any:
    """The module ``tensorflow``.

    Raises
    ------
    MissingDependency
        It is not installed.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise MissingDependency(
            "tensors() and dataset() need TensorFlow, which cannot be imported "
            f"({error}); install tfos-fast[tensorflow], tfos-fast[cpu] or tfos-fast[gpu]"
        ) from error
    return tf


@functools.cache
def _aliasable(dtype: str) -> bool:
    """Whether this TensorFlow imports the dtype through DLPack (the list differs between versions, so it is tried)."""
    tf = tensorflow()
    try:
        return tf.experimental.dlpack.from_dlpack(_aligned_sample(dtype).__dlpack__()).dtype == tf.as_dtype(dtype)
    except (TypeError, ValueError, BufferError, RuntimeError, tf.errors.OpError):
        return False


def _aligned_sample(dtype: str) -> np.ndarray:
    raw = np.zeros(256, np.uint8)
    shift = -raw.ctypes.data % 64
    return raw[shift : shift + 64].view(dtype)


def alias(array: np.ndarray) -> Any:
    """An eager tensor on the array's own memory. Memory is not copied; the tensor keeps the array alive.

    Parameters
    ----------
    array : ndarray
        C-contiguous, writable, its first byte at a multiple of 64.

    Raises
    ------
    ValueError
        It is not aligned or not contiguous. (TensorFlow would import it, and abort the process at the first kernel.)
    """
    if not is_aligned(array):
        raise ValueError(
            f"the array at {array.ctypes.data:#x} with strides {array.strides} is not contiguous at a multiple of 64 bytes; copy it"
        )
    return tensorflow().experimental.dlpack.from_dlpack(array.__dlpack__())


def to_tensor(name: str, array: Values) -> Any:
    """A column as an eager tensor: aliased when it can be, else copied (strings always are).

    Parameters
    ----------
    name : str
        Of the column, for messages.
    array : ndarray or Ragged

    Returns
    -------
    tf.Tensor or tf.RaggedTensor

    Raises
    ------
    SchemaMismatch
        The column holds Python objects of no tensor type.
    """
    tf = tensorflow()
    if isinstance(array, Ragged):
        splits = [tf.constant(split) for split in array.splits]
        return tf.RaggedTensor.from_nested_row_splits(to_tensor(name, array.values), splits, validate=False)
    if array.dtype.hasobject:
        kinds = {type(value) for value in array}
        if not kinds <= {str, bytes}:
            found = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise SchemaMismatch(
                f"column {name!r} holds Python objects ({found}), which are no tensor: None without a policy (nulls=...), values "
                "of a type without one, or of differing types; feed values of one type, or use next_batch() or batches()"
            )
        return tf.constant(array, tf.string)
    if array.size and is_aligned(array):
        if _aliasable(array.dtype.name):
            return alias(array)
        if array.dtype.name == "bfloat16":  # numpy does not export it; the bits are the same
            return tf.bitcast(alias(array.view(np.uint16)), tf.bfloat16)
    return tf.constant(array)


def row_spec(spec: Any) -> Spec:
    """Read a spec.

    Parameters
    ----------
    spec : None, dict or tuple
        Column name -> what one row's value is: a ``tf.TensorSpec``, a dtype, or (dtype, shape), where None is the length of a
        dimension that differs from row to row. A ``tf.RaggedTensorSpec`` is that of a whole batch: its first dimension is the rows.
        In a tuple the n-th entry is for column ``c<n>``. Nested: see :mod:`tfos_fast.specs`.

    Returns
    -------
    dict
        Column name -> (dtype name, shape or None: any).

    Raises
    ------
    FormError
    """
    return {name: _one_spec(name, part) for name, part in specs.leaves(spec).items()}


def _one_spec(name: str, part: Any) -> tuple[str, tuple[int, ...] | None]:
    shape: Any = None
    dtype = part
    if hasattr(part, "ragged_rank"):  # a tf.RaggedTensorSpec
        dtype, shape = part.dtype, _ragged_shape(name, part)
    elif hasattr(part, "dtype") and hasattr(part, "shape") and not isinstance(part, np.generic | type):  # a tf.TensorSpec
        dtype, shape = part.dtype, part.shape
        shape = None if getattr(shape, "rank", 0) is None else tuple(shape)
        if shape is not None and None in shape:
            raise FormError(
                f"column {name!r}: the spec says {part!r}, and rows of different lengths make no tensor: give one row's shape, "
                "or a tf.RaggedTensorSpec"
            )
    elif isinstance(part, tuple):
        dtype, shape = part
    if getattr(dtype, "name", "") == "string" or dtype is str or dtype is bytes:
        kind = dtype.__name__ if isinstance(dtype, type) else "string"
    elif hasattr(dtype, "as_numpy_dtype"):
        kind = np.dtype(dtype.as_numpy_dtype).name
    elif dtype in TEXTS:
        kind = dtype
    else:
        try:
            kind = dtype_of(dtype).name if isinstance(dtype, str) else np.dtype(dtype).name
        except TypeError as error:
            raise FormError(f"column {name!r}: the spec says {dtype!r}, which is no type of numpy or TensorFlow") from error
    if shape is None:
        return kind, None
    lengths = (shape,) if isinstance(shape, int) or shape is None else tuple(shape)
    return kind, tuple(ANY_LENGTH if length is None else int(length) for length in lengths)


def _ragged_shape(name: str, spec: Any) -> tuple[int | None, ...]:
    lengths = spec.shape
    if lengths.rank is None or lengths.rank < 2 or spec.ragged_rank < 1:
        raise FormError(f"column {name!r}: the spec says {spec!r}; it is that of a batch: give it a shape of [None, None] or more")
    inner = tuple(lengths)[1 + spec.ragged_rank :]
    if None in inner:
        raise FormError(f"column {name!r}: the spec says {spec!r}, whose last dimensions have no length")
    return (None,) * spec.ragged_rank + inner


def null_policies(nulls: Any) -> dict[str, Nulls]:
    """Read what becomes of None.

    Parameters
    ----------
    nulls : None, dict, MASK or a value
        Column name -> a number or text that stands for None, or :data:`MASK`. What is no dict is meant for every column.

    Returns
    -------
    dict
        Column name, or ``"*"`` for every other column -> policy.

    Raises
    ------
    FormError
    """
    if nulls is None:
        return {}
    return {name: _policy(name, value) for name, value in (nulls if isinstance(nulls, dict) else {EVERY: nulls}).items()}


def _policy(name: str, value: Any) -> Nulls:
    if value is MASK:
        return Nulls(mask=True)
    if isinstance(value, bytes):
        return Nulls(fill=value.decode("latin-1"))
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float | str):
        return Nulls(fill=value)
    raise FormError(f"column {name!r}: nulls can become a number, a text or tfos_fast.MASK, not {value!r}")


Uneven = Literal["stop", "pad"] | None


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
        self._shuffled: datasets.Shuffled | None = None
        self._pin_asked = False
        self._stepper: Stepper | None = None
        self._handed: Handed | None = None  # None: the program has what the reader has handed out

    def should_stop(self) -> bool:
        """Whether the feed has ended and all rows were handed out. Does not wait."""
        return self.reader.ended and not (self._shuffled is not None and self._shuffled.waiting_rows)

    def next_batch(self, n: int) -> list[Any]:
        """The next ``n`` rows as they were fed, Python types included. Values are copied.

        Waits until there are ``n``; fewer come at the end of the feed, and in inference when nothing more has come for a moment.
        """
        return self.reader.next_rows(n)

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
            Lists whose lengths differ are a :class:`~tfos_fast.channel.ragged.Ragged`.
        """
        if uneven is None:
            self._open(n, spec, nulls, tensors=False)
            return self.reader.batches(n)
        source, _ = self._in_step(uneven, n, spec, nulls)
        self._open(n, spec, nulls, tensors=False)
        return (columns for columns, _ in iter(lambda: source(1), None))

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
            the spec's structure where that is nested. First dimension: ``n``, or what is left at the end.
        """
        if uneven is not None:
            source, declared = self._in_step(uneven, n, spec, nulls)
            self._open(n, spec, nulls)
            while (item := source(1)) is not None:
                values = {name: to_tensor(name, array) for name, array in item[0].items()}
                item = None
                yield self._arranged(spec, declared, values)
                del values
            return
        self._open(n, spec, nulls)
        make = None
        while (batch := self.reader.next_batch(n)) is not None:
            make = make or self._tensor_maker(spec)
            out = make(batch)
            batch = None  # the wait for the next one must not hold this one's slot
            yield out
            out = None

    def poll(self, n: int, timeout: float, spec: Any = None, *, nulls: Any = None) -> Any:
        """One batch as ``tensors`` gives it, or None when there is none within ``timeout`` seconds (see ``should_stop``)."""
        self._open(n, spec, nulls)
        batch = self.reader.next_batch(n, timeout=timeout)
        return None if batch is None else self._tensor_maker(spec)(batch)

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
        every shape. Several nodes that train one model need :func:`tfos_fast.distributed.distribute`.

        Parameters
        ----------
        batch_size : int
            Rows in a batch of this node. Multiples of 64 keep every column aligned.
        spec : dict or tuple, optional
            See :func:`row_spec`. A nested one, such as Keras's ``(features, labels)`` with a dict of features, gives batches its
            structure; columns that it does not name are left out. So does a flat one with every shape.
        drop_remainder : bool
            Leave out the short batch at an epoch's end.
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
            The spec is none, or rows of an inference are to be shuffled.
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
        declared = row_spec(spec)
        arrange: Callable[[dict[str, Any]], Any] = functools.partial(specs.arrange, specs.outline(spec))
        if shuffle < 0:
            raise ValueError(f"shuffle={shuffle}: a window has some rows, or 0 for none")
        if shuffle and not self.reader.train:
            raise FormError("rows of an inference are not shuffled: results go back in their order")
        known = bool(declared) and not nulls and all(shape is not None for _, shape in declared.values())
        source: datasets.Source | None = None
        handed = self._handed = Handed(self.reader.trail, ahead=True, ordered=not shuffle)
        if uneven is not None:
            source, _ = self._in_step(uneven, batch_size, spec, nulls, group, shuffle, seed, drop_remainder, known=True)
        schema = self._open(batch_size, spec, nulls, wait=not known and idle is None)
        if known:
            single = {name: self._column_spec(_declared(name, *part)) for name, part in declared.items()}
        else:
            if idle is not None:
                raise FormError(
                    "nodes in step need a spec with every dtype and shape, and no nulls, since one of them may have no rows: "
                    f"such as {{'x': ('float32', (784,)), 'y': ('int32', ())}}, not {spec!r}"
                )
            if schema is None:
                raise ChannelClosed(
                    "the feed ended without a row for this process (fewer partitions than nodes?): repartition the data, or say "
                    "what its elements would be, with shapes: dataset(..., spec={'x': ('float32', (784,)), 'y': ('int32', ())})"
                )
            nested = specs.is_nested(spec)
            wanted = [column for column in schema.outputs if not nested or column.name in declared]
            single = {column.name: self._column_spec(column) for column in wanted}
            if not nested:
                arrange = functools.partial(_arrange, schema)
        if not self.reader.train:
            prefetch = 0  # a thread that waits for rows would keep results from going back
        if uneven == "pad":
            single[padding.WEIGHT] = tf.TensorSpec((None,), tf.float32)
            arrange = _weighted(arrange)
        return datasets.make(
            tf,
            source or handed.of(self._source(batch_size, shuffle, seed, idle)),
            single,
            arrange,
            to_tensor,
            batch_size,
            drop_remainder=drop_remainder,
            prefetch=prefetch,
            empty=idle is not None,
            full=uneven == "pad",
            handed=handed,
        )

    def _in_step(
        self,
        uneven: Uneven,
        n: int,
        spec: Any,
        nulls: Any,
        group: int = 1,
        shuffle: int = 0,
        seed: int | None = None,
        drop_remainder: bool = False,
        *,
        known: bool = False,
    ) -> tuple[datasets.Source, list[Column]]:
        """A source of batches in step with other nodes, and the columns that the spec declares."""
        if uneven not in ("stop", "pad"):
            raise ValueError(f"uneven={uneven!r} is none of 'stop', 'pad' and None")
        declared = row_spec(spec)
        whole = bool(declared) and not nulls and all(shape is not None for _, shape in declared.values())
        if not whole and (known or uneven == "pad"):
            raise FormError(
                "nodes in step need a spec with every dtype and shape, and no nulls, since one of them may have no rows: "
                f"such as {{'x': ('float32', (784,)), 'y': ('int32', ())}}, not {spec!r}"
            )
        if uneven == "pad" and padding.WEIGHT in declared:
            raise FormError(f'a column is called {padding.WEIGHT!r}, as that of the weights of uneven="pad"; rename it')
        self.reader.go_in_step(Pace(uneven, n, group, shuffle, drop_remainder and uneven == "stop"))
        if self._stepper is None:
            source = self._source(n, shuffle, seed, 0.0)
            self._stepper = Stepper(self.reader, source, lambda: self._shuffled.clear() if self._shuffled else None)
        if not known:  # the generator is the program's own
            self._handed = Handed(self.reader.trail, ahead=False, ordered=True)
        assert self._handed is not None
        steps = self._handed.of(self._stepper)
        columns = [_declared(name, *part) for name, part in declared.items()]
        return (padding.Padded(steps, columns, n) if uneven == "pad" else steps), columns

    def _arranged(self, spec: Any, declared: list[Column], values: dict[str, Any]) -> Any:
        weight = values.pop(padding.WEIGHT, None)
        if declared:
            out = specs.arrange(specs.outline(spec), {column.name: values[column.name] for column in declared})
        else:
            assert self.reader.schema is not None
            out = _arrange(self.reader.schema, values)
        return out if weight is None else padding.with_weight(out, weight)

    def _source(self, n: int, shuffle: int, seed: int | None, timeout: float | None) -> datasets.Source:
        if shuffle:
            self._shuffled = self._shuffled or datasets.Shuffled(self.reader)
            return self._shuffled.source(n, shuffle, seed, timeout)

        def in_order(most: int) -> tuple[Columns, int] | None:
            batch = self.reader.next_batch(n, epoch_ends=True, timeout=timeout, most=most)
            return None if batch is None else (batch.columns, batch.rows)

        return in_order

    def batch_results(self, results: Any) -> None:
        """Inference: one result for each row handed out, in the same order.

        Parameters
        ----------
        results : sequence, array, tensor, dict or tuple
            A list (or another sequence): its items are the results, and come back as they are, types included.
            A numpy array or eager tensor: the result of row ``i`` is ``results[i]``, an array, or a Python number where that has no
            dimension. A dict of these (or of lists): the results are dicts of the columns' values. A tuple of arrays: tuples.
            Arrays of numbers are copied as memory, and become columns of a DataFrame without passing through rows.

        Raises
        ------
        ValueError
            There are more results than rows without one, or columns differ in length.
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
        self.reader.commit(*self._covered(batches))

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
        epoch, rows = self.reader.position(*self._covered(batches))
        partitions = {
            str(number): {key.rpartition("/")[2]: [list(span) for span in spans] for key, spans in parts.items()}
            for number, parts in rows.items()
        }
        return {"epoch": epoch, "rows": partitions}

    def _covered(self, batches: int | None) -> tuple[int | None, int | None]:
        if self._handed is not None:
            return self._handed.covered(batches)
        if batches is not None:
            raise FormError("commit(batches=) is for dataset(), which reads ahead; other ways of reading need no number")
        return None, None

    def terminate(self) -> None:
        """Want no more rows: feeding to this node ends soon, what is queued is dropped."""
        self.reader.terminate()
        if self._shuffled is not None:
            self._shuffled.clear()

    def _open(self, n: int, spec: Any, nulls: Any, *, tensors: bool = True, wait: bool = False) -> Schema | None:
        if tensors:
            self._pin()
        return self.reader.open_columns(n, row_spec(spec), nulls=null_policies(nulls), tensors=tensors, wait=wait)

    def _tensor_maker(self, spec: Any) -> Callable[[Batch], Any]:
        """A function that makes a batch's tensors; types are looked at once for all batches."""
        schema = self.reader.schema
        assert schema is not None
        nested = specs.is_nested(spec)
        arrange: Any = functools.partial(specs.arrange, specs.outline(spec)) if nested else functools.partial(_arrange, schema)
        as_tuple = not nested and schema.structure in ("tuple", "list")
        from_dlpack = tensorflow().experimental.dlpack.from_dlpack
        aliasable: bool | None = None

        def make(batch: Batch) -> Any:
            nonlocal aliasable
            columns = batch.columns
            if batch.plain:
                if aliasable is None:
                    aliasable = all(array.size and _aliasable(array.dtype.name) for array in columns.values())  # type: ignore[union-attr]
                if aliasable:
                    tensors = [from_dlpack(array.__dlpack__()) for array in columns.values()]  # type: ignore[union-attr]
                    return tuple(tensors) if as_tuple else arrange(dict(zip(columns, tensors, strict=True)))
            return arrange({name: to_tensor(name, array) for name, array in columns.items()})

        return make

    def _pin(self) -> None:
        """Once, before the first tensor: on a GPU node the slots become pinned memory; see :mod:`tfos_fast.pinned`."""
        if self._pin_asked:
            return
        self._pin_asked = True
        pinned = pin(self.reader.segment.mapping, ordinal=lambda: tensorflow_gpu(tensorflow()))
        if pinned is not None:
            end = weakref.finalize(self.reader, pinned.close)  # whether it is closed or just dropped
            end.atexit = False  # the driver frees everything by itself, and may have shut down before us
            self.reader.on_close = end

    @staticmethod
    def _column_spec(column: Column) -> Any:
        tf = tensorflow()
        if column.kind == "object":
            raise SchemaMismatch(
                f"column {column.name!r} holds Python objects, which are no tensor: None without a policy (nulls=...), values of a "
                "type without one, or of differing types; feed values of one type, or use next_batch() or batches()"
            )
        if column.kind in TEXTS:
            return tf.TensorSpec((None,), tf.string)
        dtype = tf.string if column.dtype in TEXTS else tf.as_dtype(dtype_of(column.dtype))
        if column.kind == "ragged":
            shape = tuple(None if length == ANY_LENGTH else length for length in column.shape)
            return tf.RaggedTensorSpec((None, *shape), dtype, ragged_rank=column.ragged_dims)
        return tf.TensorSpec((None, *column.shape), dtype)


def _weighted(arrange: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    def arranged(values: dict[str, Any]) -> Any:
        return padding.with_weight(arrange({k: v for k, v in values.items() if k != padding.WEIGHT}), values[padding.WEIGHT])

    return arranged


def _declared(name: str, dtype: str, shape: tuple[int, ...] | None) -> Column:
    """The column that a whole spec declares."""
    shape = shape or ()
    if dtype in ("object", "str", *TEXTS) and not shape:
        return Column(name, {"str": "string"}.get(dtype, dtype))  # type: ignore[arg-type]
    return Column(name, "ragged" if ANY_LENGTH in shape else "fixed", dtype, shape)


def _arrange(schema: Schema, values: dict[str, Any]) -> Any:
    if schema.structure in ("tuple", "list"):
        return tuple(values.values())
    if schema.structure == "bare":
        return next(iter(values.values()))
    return values


__all__ = ["MASK", "DataFeed", "alias", "null_policies", "row_spec", "to_tensor"]
