"""HTML and wiki-like dumps to documents of text or Markdown."""
