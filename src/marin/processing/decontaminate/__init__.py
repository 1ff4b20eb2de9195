"""Evaluation items in training text: found, named, and removed."""
