"""Checkpoints to the Hugging Face format and back, verified."""
