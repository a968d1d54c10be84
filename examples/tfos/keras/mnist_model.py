"""What the Keras programs share; shipped with ``--py-files``."""

from __future__ import annotations


def build(pixels: int, learning_rate: float):
    """A small convolutional network for square images that come as lines of pixels, 0 to 255.

    By ``tf_keras``: Keras 3, which ``tf.keras`` is nowadays, cannot train under a MultiWorkerMirroredStrategy.
    """
    import tf_keras as keras

    side = int(pixels**0.5)
    model = keras.Sequential(
        [
            keras.layers.Input((pixels,), name="pixels"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Reshape((side, side, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax", name="digit"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy", metrics=["accuracy"], weighted_metrics=[]
    )
    return model


def checkpoints(folder: str):
    """A callback that keeps the weights of each epoch."""
    import tensorflow as tf
    import tf_keras as keras

    tf.io.gfile.makedirs(folder)
    return keras.callbacks.ModelCheckpoint(f"{folder}/weights-{{epoch:04d}}", save_weights_only=True)


def parse(line, pixels: int):
    """A line of CSV, label first, as tensors (pixels, label)."""
    import tensorflow as tf

    values = tf.strings.to_number(tf.strings.split(line, ","))
    return tf.ensure_shape(values[1:], (pixels,)), tf.cast(values[0], tf.int64)


def pixels_in(pattern: str) -> int:
    """Pixels of an image, counted in the first line of the first of these files."""
    import tensorflow as tf

    first = sorted(tf.io.gfile.glob(pattern))[0]
    with tf.io.gfile.GFile(first) as file:
        return file.readline().count(",")
