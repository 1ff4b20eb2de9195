"""Documents and what was said about them to the documents that stay."""
