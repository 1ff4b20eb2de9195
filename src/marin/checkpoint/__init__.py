"""Training state to disk and back, whole or not at all."""
