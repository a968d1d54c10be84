"""Benchmarks: ``python -m benchmarks feed | pack | channel | machine``."""
