"""The driver's calls: reserve, start, feed, infer, shutdown."""
