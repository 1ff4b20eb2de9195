"""Documents and paragraphs that are there more than once: found first, removed in a pass of their own."""
