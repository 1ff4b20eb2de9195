"""marin: from raw text to a trained, exported, evaluated and reported language model, every step on record.

Importing this package loads nothing else: a planner, a test or a shell completion should not pay for a tensor library.
"""

__version__ = "0.1.0"
