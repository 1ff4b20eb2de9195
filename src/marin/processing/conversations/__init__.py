"""Rows of instruction sets to conversations in one form."""
