"""Text and tokens: get them, look into them, and from a training run back to them."""

VERBS = {
    "download": "get text: from the Hugging Face hub, over HTTP, by a crawl, out of crawl archives",
    "extract": "make documents of pages of HTML",
    "filter": "keep the documents that satisfy rules, and count the others by the rule that they fail",
    "dedup": "remove documents or paragraphs that are there twice",
    "decontaminate": "find evaluation items in documents, and remove them",
    "funnel": "show how many documents each stage and rule of a pipeline took",
    "head": "print rows, from the first on or from any other",
    "show": "print one row whole, by number, place or id",
    "search": "find rows by a text in them",
    "stats": "count rows, bytes, sources, lengths, ids that occur twice",
    "sample": "take exactly so many rows by chance",
    "at-step": "show which documents a training step saw",
    "mixture": "show what a run takes from each of its sources",
}
