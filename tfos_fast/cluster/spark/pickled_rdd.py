"""RDDs whose rows lie in the JVM as pickled batches: those can be fed without unpickling them."""

from __future__ import annotations

from typing import Any


def pickled_batches(rdd: Any) -> Any | None:
    """The same RDD as its pickled batches (``bytes``, each a list of rows), or None when that would cost more than it brings.

    An RDD that is the outcome of a Python function, and is neither cached nor checkpointed, is None: its rows are made in the
    Python worker that feeds them, and would go to the JVM and back only to be pickled. So is one that is serialized in any other
    way than as lists by Spark's own pickler, as those of ``textFile`` and ``zip`` are.
    """
    from pyspark import RDD, serializers

    batched = (serializers.BatchedSerializer, serializers.AutoBatchedSerializer)
    picklers = {serializers.CPickleSerializer, serializers.CloudPickleSerializer}
    made_here = type(rdd) is not RDD and not (rdd.is_cached or rdd.is_checkpointed)
    if made_here or not type(rdd).__module__.startswith("pyspark."):
        return None  # a subclass of somebody else's may mean something else
    jrdd = rdd._jrdd  # a PipelinedRDD knows its serializer only then
    serializer = rdd._jrdd_deserializer
    if type(serializer) not in batched or type(serializer.serializer) not in picklers:
        return None
    return RDD(jrdd, rdd.ctx, serializers.NoOpSerializer())


def loads_of(rdd: Any) -> Any:
    """What unpickles a batch of the RDD, as Spark would."""
    return rdd._jrdd_deserializer.serializer.loads
