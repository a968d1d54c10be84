from typing import Any

import numpy as np

def pick(
    source: np.ndarray,
    row: np.ndarray,
    count: int,
    random: np.ndarray,
    out_source: np.ndarray,
    out_row: np.ndarray,
    live: np.ndarray,
) -> None: ...
def gather(out: Any, sources: list[Any], source: np.ndarray, row: np.ndarray, width: int) -> None: ...
