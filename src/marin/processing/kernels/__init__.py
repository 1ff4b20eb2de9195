"""Loops over text and hashes, compiled; beside each the plain form that it equals."""
