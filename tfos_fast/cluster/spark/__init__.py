"""What the driver asks of Spark: a context or a session of Spark Connect."""
