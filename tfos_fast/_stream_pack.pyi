from tfos_fast._pack import RowPacker
from tfos_fast._stream import StreamBatch

def pack_stream(packer: RowPacker, batch: StreamBatch, tick_seconds: float) -> int: ...
