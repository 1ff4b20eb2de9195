"""Batches to loss to checkpoint."""
