"""Stands for TensorFlowOnSpark's functions about TFRecord files and DataFrames, which tfos_fast does not have yet."""

from __future__ import annotations

from tfos_fast.compat import gone

_INSTEAD = (
    "Store the rows as Parquet files and feed them by tfos_fast.parquet, or feed the DataFrame itself (cluster.train takes one), "
    "or read TFRecord files with tf.data.TFRecordDataset in map_fun"
)
loadTFRecords = gone.later("dfutil", "loadTFRecords", _INSTEAD)
saveAsTFRecords = gone.later("dfutil", "saveAsTFRecords", _INSTEAD)
toTFExample = gone.later("dfutil", "toTFExample", _INSTEAD)
fromTFExample = gone.later("dfutil", "fromTFExample", _INSTEAD)
infer_schema = gone.later("dfutil", "infer_schema", _INSTEAD)
isLoadedDF = gone.later("dfutil", "isLoadedDF", _INSTEAD)
