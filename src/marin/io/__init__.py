"""Bytes on disk: atomic writes, hashes, record files. Knows nothing of language models."""
