"""What runs in Spark tasks: feeding and inference."""
