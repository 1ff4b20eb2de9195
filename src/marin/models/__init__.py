"""One file per architecture, each readable alone from top to bottom."""
