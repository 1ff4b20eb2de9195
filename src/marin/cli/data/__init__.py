"""Text and tokens: get them, look into them, and from a training run back to them."""

VERBS = {
    "head": "print rows, from the first on or from any other",
    "show": "print one row whole, by number, place or id",
    "search": "find rows by a text in them",
    "stats": "count rows, bytes, sources, lengths, ids that occur twice",
    "sample": "take exactly so many rows by chance",
    "dedup": "remove documents or paragraphs that are there twice",
    "decontaminate": "find evaluation items in documents, and remove them",
    "at-step": "show which documents a training step saw",
    "mixture": "show what a run takes from each of its sources",
}
