"""Which documents are worth training on: signals of texts, rules about them, edits of lines and personal data."""
