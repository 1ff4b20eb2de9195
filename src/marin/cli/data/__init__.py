"""Text and tokens: get them, look into them, and from a training run back to them."""

VERBS = {
    "at-step": "show which documents a training step saw",
    "mixture": "show what a run takes from each of its sources",
}
