"""What runs, in which order, and whether it must run at all."""
