"""Epochs that a node keeps and gives out again."""
