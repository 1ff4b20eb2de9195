"""Raw text in, with where it came from."""
