"""What is put into a queue by hand between rows."""

from __future__ import annotations


class Marker:
    """Base of what is no row."""


class EndPartition(Marker):
    """The end of a partition: in inference a batch ends here."""
