"""The process that owns the queue: which slots are free, who may read what."""
