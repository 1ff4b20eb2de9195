"""Tokenizers: make one, use it, look at what it made, compare several."""

VERBS = {
    "train": "train a byte-level BPE tokenizer on documents",
    "run": "turn documents into a token store",
    "show": "show a token store, or one of its documents token by token",
    "compare": "compare tokenizers on your text: tokens, words, vocabulary, speed",
}
