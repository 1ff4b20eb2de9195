"""Tokens to batches by index arithmetic; no text, no executor."""
