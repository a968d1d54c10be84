"""The partition that a writer has open: which one, how far it is published, whether an earlier attempt had the same. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from tfos_fast.channel.codec.fingerprint import Proof
from tfos_fast.channel.schema.explain import explained
from tfos_fast.errors import NonDeterministicPartition, RowTooLarge, SchemaMismatch

Unfit = TypeVar("Unfit", SchemaMismatch, RowTooLarge)


@dataclass
class Partition:
    """One after the other, the partitions of a writer.

    Attributes
    ----------
    key : str
        Of the open partition, or of the last one.
    stream : int or None
        The broker's number of it; None: none is open.
    rows : int
        Its rows in published slots, those that were left out included.
    exchange : bool
        Results are wanted back.
    proof : Proof
        Of the rows that an earlier attempt has delivered.
    """

    key: str = ""
    stream: int | None = None
    rows: int = 0
    exchange: bool = False
    proof: Proof = field(default_factory=Proof)

    def check(self, seen: int, found: Proof) -> None:
        """Compare what was delivered, ``rows`` rows, with the ``seen`` rows that the partition begins with now.

        Raises
        ------
        NonDeterministicPartition
            They differ, or there are fewer.
        """
        if seen < self.rows:
            what = f"has {seen} rows now"
        elif found.tells(self.proof) and found != self.proof:
            what = "now begins with other rows"
        else:
            return
        raise NonDeterministicPartition(
            f"partition {self.key} {what}, and {self.rows} rows of it were delivered by an earlier attempt: it must come out the "
            "same when it is computed again. Cache or checkpoint the data, give random numbers a seed, sort before what depends on "
            "an order; or let rows come twice with feed(exactly_once=False)"
        )

    @property
    def name(self) -> str:
        """As errors call it. The key of an exchange ends with what tells one attempt from another."""
        return self.key.rpartition("/")[0] or self.key if self.exchange else self.key

    def located(self, error: Unfit, row: int, *cause: Any) -> Unfit:
        """The error with its place; ``cause``: the row itself."""
        text = f"; the row is {_short(cause[0])}" if cause else ""
        words = explained(error, cause[0]) if cause and isinstance(error, SchemaMismatch) else error
        return type(error)(f"partition {self.name}, row {row}: {words}{text}")


def _short(row: Any) -> str:
    text = repr(row)
    return text if len(text) <= 200 else text[:200] + "..."
