"""Numbers out of a run, as they come."""
