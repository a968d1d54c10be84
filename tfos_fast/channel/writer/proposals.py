"""The columns that a writer packs by: what its rows need, which it proposes, and what the feed agreed on."""

from __future__ import annotations

from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.schema.columns import Schema
from tfos_fast.channel.schema.structs import Flattener
from tfos_fast.channel.transport.connection import Connection


class Proposals:
    """One writer's proposals to its feed.

    Parameters
    ----------
    connection : Connection

    Attributes
    ----------
    form : Form
        What the reader has declared.
    inferred : Schema or None
        What our rows need, before the feed's spec and the other writers' needs.
    agreed : Schema or None
        What the feed agreed on.
    schema_id : int
        The feed's number of it.
    flat : Flattener or None
        Takes rows apart that hold structs, whose fields become columns; None: no row with one was seen.
    """

    def __init__(self, connection: Connection) -> None:
        self.form = m.Form("columns")
        self.inferred: Schema | None = None
        self.agreed: Schema | None = None
        self.schema_id = -1
        self.flat: Flattener | None = None
        self._conn = connection

    def propose(self, wanted: Schema) -> None:
        """Ask for columns that take our rows.

        Raises
        ------
        SchemaMismatch
            The feed cannot have them: its reader has begun, or has a spec.
        """
        self._conn.send(m.Propose(wanted))
        answer = self._conn.ask(m.Agreed, "the feed's schema")
        self.inferred = wanted
        if answer.schema != self.agreed:
            self.agreed, self.schema_id = answer.schema, answer.schema_id

    def tell_met(self) -> None:
        """Tell of the spec's fields that our rows have had since. To be called before their slot is published."""
        if self.flat is not None and self.flat.met:
            self._conn.send(m.Met(sorted(self.flat.met)))
            self.flat.met.clear()

    def forget(self) -> None:
        """Rows of another kind are to come."""
        self.inferred = self.agreed = self.flat = None
