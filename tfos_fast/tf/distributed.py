"""The feed under ``tf.distribute``: every node brings its own rows, and all nodes step together.

What would go wrong without help, and what is done about it:

- ``strategy.experimental_distribute_dataset`` (and ``fit``, which calls it) takes a node's batch for the batch of all nodes and
  splits it: 20 batches of 64 become 40 steps of 32 on two nodes. ``distribute_datasets_from_function`` leaves batches as they are.
- A step ends when all nodes have done it, and nodes get different numbers of rows. At the end of an epoch TensorFlow itself gives
  nodes that have no more rows batches without rows, until the last node is done.
- Before that end a node may have nothing for a while, and the others would wait for it in their step and take no rows, so that
  Spark's job, whose end all are waiting for, never ended. Here such a node takes part in the step with a batch without rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tfos_fast.errors import FormError

if TYPE_CHECKING:
    from tfos_fast.tf.feed import DataFeed


def distribute(
    strategy: Any,
    feed: DataFeed,
    batch_size: int,
    spec: Any,
    *,
    idle: float = 0.1,
    shuffle: int = 0,
    seed: int | None = None,
    prefetch: int = 2,
    uneven: Literal["stop", "pad"] | None = None,
) -> Any:
    """The feeds of all nodes as one distributed dataset. Call it on every node.

    Each iterator over it is an epoch, which ends for all nodes at the same step, when the last of them has no more rows. Every row
    is in one step. A step may have no rows on some nodes, while Spark is slow even on all: sum losses over rows and divide by the
    rows of all nodes if there are any, or take the losses of ``tf_keras``, which are 0 then. Batch normalisation has no mean of no
    rows.

    With ``tf_keras`` (Keras 3 cannot train under this strategy) call ``fit`` once for each epoch, with more steps than can be::

        model.fit(dataset, initial_epoch=e, epochs=e + 1, steps_per_epoch=2**31)

    Parameters
    ----------
    strategy : tf.distribute.Strategy
        Such as ``MultiWorkerMirroredStrategy()``.
    feed : DataFeed
    batch_size : int
        Rows in a step of this node, over all its replicas.
    spec : dict or tuple
        As for :meth:`DataFeed.dataset <tfos_fast.tf.feed.DataFeed.dataset>`, with every dtype and shape: a node may have no rows.
    idle : float
        Seconds that a node waits for rows before it takes part in a step without.
    shuffle, seed, prefetch
        As for ``dataset``.
    uneven : {"stop", "pad"}, optional
        The nodes agree on the steps of an epoch beforehand, as for ``dataset``: no batch is without rows, and ``idle`` is not used.

    Returns
    -------
    tf.distribute.DistributedDataset

    Raises
    ------
    FormError
        ``spec`` leaves a shape open, or ``batch_size`` is no multiple of the node's replicas.
    """

    def of_this_node(context: Any) -> Any:
        replicas = max(1, context.num_replicas_in_sync // context.num_input_pipelines)
        if batch_size % replicas:
            raise FormError(f"batch_size={batch_size} cannot be shared by the {replicas} replicas of this node; use a multiple")
        return feed._dataset(
            batch_size // replicas,
            spec,
            drop_remainder=False,
            shuffle=shuffle,
            seed=seed,
            prefetch=prefetch,
            idle=idle if uneven is None else None,
            uneven=uneven,
            group=replicas,
        )

    return strategy.distribute_datasets_from_function(of_this_node)


__all__ = ["distribute"]
