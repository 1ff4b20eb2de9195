"""Raw text to documents to tokens."""
