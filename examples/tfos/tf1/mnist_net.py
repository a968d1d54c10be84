"""What the graphs of the two training programs have in common. It goes to the executors with ``--py-files``."""

from __future__ import annotations

import time
from typing import Any

import tensorflow.compat.v1 as tf

HIDDEN = 128
CLASSES = 10


class Network:
    """One hidden layer, its loss and its training step.

    To be made where ``tf.train.replica_device_setter`` is in force: the variables then lie on the parameter servers.

    Parameters
    ----------
    images : tf.Tensor
        float32, a row for each digit, pixels from 0 to 255.
    labels : tf.Tensor
        int64.
    pixels : int
    learning_rate : float
    """

    def __init__(self, images: Any, labels: Any, pixels: int, learning_rate: float) -> None:
        glorot = tf.glorot_uniform_initializer(seed=1)
        hidden = tf.get_variable("hidden", [pixels, HIDDEN], initializer=glorot)
        hidden_bias = tf.get_variable("hidden_bias", [HIDDEN], initializer=tf.zeros_initializer())
        output = tf.get_variable("output", [HIDDEN, CLASSES], initializer=glorot)
        output_bias = tf.get_variable("output_bias", [CLASSES], initializer=tf.zeros_initializer())
        self.images, self.labels = images, labels
        activity = tf.nn.relu(images / 255.0 @ hidden + hidden_bias)
        logits = activity @ output + output_bias
        self.prediction = tf.argmax(logits, axis=1)
        self.loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        self.accuracy = tf.reduce_mean(tf.cast(tf.equal(self.prediction, labels), tf.float32))
        self.step = tf.train.get_or_create_global_step()
        self.train = tf.train.AdamOptimizer(learning_rate).minimize(self.loss, global_step=self.step)

    @property
    def signatures(self) -> dict[str, Any]:
        """For ``export_saved_model``."""
        return {
            "serving_default": {
                "inputs": {"images": self.images},
                "outputs": {"prediction": self.prediction},
                "method_name": "tensorflow/serving/predict",
            }
        }


class Finished:
    """The first worker saves when the last one has trained all its rows: each leaves a word in a queue on a parameter server.

    Attributes
    ----------
    tell : tf.Operation
        This worker has finished.
    wait : tf.Tensor
        Comes when all have.
    """

    def __init__(self, workers: int) -> None:
        with tf.device("/job:ps/task:0/cpu:0"):
            queue = tf.FIFOQueue(workers, tf.int32, [[]], shared_name="finished")
            self.tell = queue.enqueue(0)
            self.wait = queue.dequeue_many(workers)


def wait_for_chief(server: Any, config: Any) -> None:
    """Until the first worker has initialized the variables.

    MonitoredTrainingSession waits for that, too, but looks again after 30 s only.
    """
    missing = tf.report_uninitialized_variables(tf.global_variables())
    with tf.Session(server.target, config=config) as session:
        while session.run(missing).size:
            time.sleep(0.2)


def only(me: str) -> Any:
    """Sessions of a worker talk to the parameter servers and to nobody else: a worker that has ended then holds up no other."""
    return tf.ConfigProto(device_filters=["/job:ps", me])
