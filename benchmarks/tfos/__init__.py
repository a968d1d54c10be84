"""TensorFlowOnSpark beside tfos_fast: measured by a process of its own, in an environment of its own (``scripts/tfos-env.sh``)."""
