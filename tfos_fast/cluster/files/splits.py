"""Cutting files into splits, and the order in which the partitions of a feed are read. Pure: no I/O."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

SPLIT_BYTES = 128 * 2**20  # as Spark's spark.sql.files.maxPartitionBytes
SPLITS_PER_CORE = 4  # so that a slow one at the end holds up little


@dataclass(frozen=True)
class Order:
    """In which order a feed's partitions are read in one epoch. Equal seeds and epochs give equal orders.

    Parameters
    ----------
    seed : int
    epoch : int
    """

    seed: int
    epoch: int

    def of(self, partitions: int) -> list[int]:
        """Every partition's number once, in the order of this epoch."""
        order = list(range(partitions))
        random.Random(f"{self.seed}/{self.epoch}").shuffle(order)
        return order

    @property
    def turn(self) -> int:
        """A number of this epoch, which parts partitions among nodes that are equally good for them."""
        return random.Random(f"{self.seed}/{self.epoch}/turn").getrandbits(31)


def count_of(sizes: Sequence[int], cores: int) -> int:
    """How many splits to make when nobody says: some for every core, more where they would become too large.

    Parameters
    ----------
    sizes : sequence of int
        Bytes of the row groups.
    cores : int
        Tasks that Spark runs at a time.
    """
    return max(1, min(len(sizes), max(cores * SPLITS_PER_CORE, -(-sum(sizes) // SPLIT_BYTES))))


def group(sizes: Sequence[int], count: int) -> list[range]:
    """Cut a sequence of row groups into neighbouring groups of about equal size.

    Parameters
    ----------
    sizes : sequence of int
        Bytes of the row groups.
    count : int
        Groups wanted; there are fewer when there are fewer row groups, or when some are so large that they are worth several.

    Returns
    -------
    list of range
        Positions in ``sizes``: none is empty, and together they are all positions in order.
    """
    weights = [max(size, 1) for size in sizes]
    total = sum(weights)
    groups: list[range] = []
    begin, before, current = 0, 0, 0
    for position, weight in enumerate(weights):
        # The group in which the middle of this row group falls.
        wanted = (2 * before + weight) * count // (2 * total)
        if wanted != current and position > begin:
            groups.append(range(begin, position))
            begin = position
        current = wanted
        before += weight
    if weights:
        groups.append(range(begin, len(weights)))
    return groups
