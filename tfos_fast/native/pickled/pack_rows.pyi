from tfos_fast.native.pickled.batch import StreamBatch
from tfos_fast.native.row_packer import RowPacker

def pack_stream(packer: RowPacker, batch: StreamBatch, tick_seconds: float) -> int: ...
