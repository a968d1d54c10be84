"""Tensors of batches: what a TensorFlow program reads."""
