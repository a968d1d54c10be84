"""Arrow arrays to columns of a slot, and back."""
