"""Names of TensorFlowOnSpark and of old TensorFlow that are not here, and what stands for each."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from tfos_fast.errors import NotThere

GUIDE = "docs/migrating-from-tfos.md says more"

# Attributes of the module tensorflow that programs for TensorFlow 1, or early 2, use.
_TENSORFLOW = {
    "estimator": "tf.estimator is gone since TensorFlow 2.16: train with Keras, as examples/tfos/keras does, or in a loop with "
    "tf.compat.v1.train.MonitoredTrainingSession, as examples/tfos/tf1 does",
    "contrib": "tf.contrib is gone since TensorFlow 2: most of it is in tf.compat.v1, tf.keras or a package of its own",
}
_V1 = "TensorFlow 2 has it as tf.compat.v1.{name}: write import tensorflow.compat.v1 as tf, and tf.disable_v2_behavior()"


def function(what: str, instead: str) -> Callable[..., NoReturn]:
    """A function that only says what stands for it."""

    def not_there(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotThere(f"{what} is not there any more: call {instead}; {GUIDE}")

    return not_there


def later(module: str, name: str, instead: str) -> Any:
    """A function or class of a module that tfos_fast does not have yet; to use it is an error, to import it is none."""
    text = f"tfos_fast has no {module}.{name} yet. {instead}; {GUIDE}"

    def not_there(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotThere(text)

    if name[0].islower():
        return not_there
    return type(name, (), {"__doc__": text, "__init__": not_there})


def what_stands_for(error: AttributeError) -> str | None:
    """For an attribute that tensorflow does not have: what to write in its place."""
    module, name = error.obj, error.name
    if not isinstance(module, ModuleType) or not name or module.__name__.partition(".")[0] != "tensorflow":
        return None
    if name in _TENSORFLOW:
        return _TENSORFLOW[name]
    try:
        import tensorflow.compat.v1 as v1
    except ImportError:
        return None
    path = [*module.__name__.partition("._api.v2.")[2].split("."), name] if "._api.v2." in module.__name__ else [name]
    found: Any = v1
    for part in filter(None, path):
        found = getattr(found, part, None)
    return _V1.format(name=".".join(filter(None, path))) if found is not None else None
