"""Pickled batches of rows: parsed and packed without making Python objects."""
