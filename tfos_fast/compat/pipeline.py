"""Stands for TensorFlowOnSpark's Spark ML pipelines, which tfos_fast does not have yet."""

from __future__ import annotations

from typing import Any

from tfos_fast.compat import gone
from tfos_fast.compat.util import single_node_env

_TRAIN = "Train by TFCluster.run(...) and cluster.train(dataframe)"
_INFER = (
    'Infer by cluster.inference(rdd), or with columns kept by tfos_fast.run(...).infer(dataframe, schema="prediction int", '
    'keep=["id"])'
)

TFEstimator: Any = gone.later("pipeline", "TFEstimator", _TRAIN)
TFModel: Any = gone.later("pipeline", "TFModel", _INFER)
TFParams: Any = gone.later("pipeline", "TFParams", _TRAIN)
Namespace: Any = gone.later("pipeline", "Namespace", "Use argparse.Namespace")
yield_batch = gone.later("pipeline", "yield_batch", _INFER)
get_meta_graph_def = gone.later("pipeline", "get_meta_graph_def", "Call tf.saved_model.load(export_dir)")
_PARAMS = """
    BatchSize ClusterSize DriverPSNodes Epochs ExportDir GraceSecs InputMapping InputMode MasterNode ModelDir NumPS OutputMapping
    Protocol Readers SignatureDefKey Steps TagSet Tensorboard TFRecordDir
"""
for _name in ["TFTypeConverters", *(f"Has{param}" for param in _PARAMS.split())]:
    globals()[_name] = gone.later("pipeline", _name, _TRAIN)

__all__ = ["Namespace", "TFEstimator", "TFModel", "TFParams", "get_meta_graph_def", "single_node_env", "yield_batch"]
