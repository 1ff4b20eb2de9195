"""What stands before a text that a model reads: the one rule of scoring and of writing.

A model of ours reads what stood there in training. Of one from elsewhere that is unknown; it then gets a BOS where its
tokenizer itself puts one in front of a text, as Llama 3's does, and none where a BOS is merely named, as in GPT-2's. So
does lm-evaluation-harness with such models.
"""

from typing import Literal, Protocol, runtime_checkable

DocumentPrefix = Literal["eos", "bos"]
"""What training put before a document: the EOS of the document before it, or a BOS of its own."""


@runtime_checkable
class Prefixes(Protocol):
    """What the rule needs of a tokenizer; `marin.processing.tokenize.tokenizer.Tokenizer` has it."""

    @property
    def adds_bos(self) -> bool: ...


def resolve_prefix(tokenizer: Prefixes, document_prefix: DocumentPrefix | None) -> DocumentPrefix:
    """What stands before a text here: what stood there in training, or where that is unknown BOS if the tokenizer adds
    one by itself, else EOS."""
    if document_prefix is None:
        return "bos" if tokenizer.adds_bos else "eos"
    return document_prefix
