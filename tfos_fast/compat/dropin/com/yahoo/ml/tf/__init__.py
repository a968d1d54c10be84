"""The name that TensorFlowOnSpark's package had before 1.0."""

from tfos_fast.errors import MissingDependency

raise MissingDependency(
    "com.yahoo.ml.tf is the name that TensorFlowOnSpark's package had before 1.0: write from tensorflowonspark import TFCluster, "
    "TFNode (or from tfos_fast.compat import ...); docs/migrating-from-tfos.md says more"
)
