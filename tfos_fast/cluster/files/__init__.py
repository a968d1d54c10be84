"""Files as a feed: Parquet. It imports nothing else of the cluster."""
