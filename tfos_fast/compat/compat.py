"""Differences between versions of TensorFlow and Keras, for use in ``map_fun``."""

from __future__ import annotations

import tempfile
from typing import Any


def export_saved_model(model: Any, export_dir: str, is_chief: bool = False) -> None:
    """Write a model as a SavedModel; to be called at every node, of which the chief's counts.

    The others write, too, where nobody looks: with a distribution strategy, saving is a step of all nodes.

    Parameters
    ----------
    model : keras.Model, tf_keras.Model or tf.Module
        Keras 3 writes it by ``model.export``, tf_keras by ``save(save_format="tf")``.
    export_dir : str
    is_chief : bool
    """
    if is_chief:
        _save(model, export_dir)
        return
    with tempfile.TemporaryDirectory(prefix="tfos-export-") as folder:
        _save(model, folder)


def _save(model: Any, folder: str) -> None:
    import tensorflow as tf

    home = type(model).__mro__
    if any(kind.__module__.startswith("tf_keras.") for kind in home):
        model.save(folder, save_format="tf")
    elif any(kind.__module__.startswith("keras.") for kind in home):
        model.export(folder)
    else:
        tf.saved_model.save(model, folder)


def disable_auto_shard(options: Any) -> None:
    """Have ``tf.data`` leave the rows of each node to it: they were dealt out by Spark."""
    import tensorflow as tf

    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF


def is_gpu_available() -> bool:
    """Whether TensorFlow sees a GPU."""
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
