"""Inner loops over text, each with a plain reference beside it that it is held to."""
