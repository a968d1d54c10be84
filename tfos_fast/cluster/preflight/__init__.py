"""What is looked at before a cluster starts."""
