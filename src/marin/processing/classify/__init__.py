"""What a text is like, as numbers: quality, language, whatever labels teach.

A classifier only measures. What its numbers mean for a document is said where documents are filtered, as a threshold
over the columns that `score` writes.
"""
