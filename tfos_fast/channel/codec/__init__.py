"""Values to bytes of a slot, and back."""
