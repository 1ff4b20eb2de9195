"""Devices, and the programs compiled for them."""
