"""Completions of held-out prompts, to be read by a person beside what the document really says.

A handful of them proves nothing and shows much: repetition, lost syntax, memorised licences. They are seeded, so
the same model writes the same text again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from marin.evaluation.scoring import DocumentPrefix, prefix_id

Generate = Callable[..., list[list[int]]]
"""`marin.inference.generate.generate` with the model bound: (prompts, *, max_new_tokens, stop_ids, ...) -> tokens."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The beginning of a document, and what follows there."""

    document: str
    text: str
    reference: str


def held_out_prompts(
    documents: Sequence[tuple[str, str]], num_prompts: int, prompt_characters: int, reference_characters: int = 400
) -> list[Prompt]:
    """Prompts from the first documents (id, text) that are long enough, each cut at a line end.

    Fewer than num_prompts come back where fewer documents have a line end within prompt_characters and text behind it.
    """
    prompts: list[Prompt] = []
    for document, text in documents:
        cut = text.rfind("\n", 1, prompt_characters) + 1
        if len(prompts) < num_prompts and cut > 0 and text[:cut].strip() and text[cut:].strip():
            reference = text[cut : cut + reference_characters]
            prompts.append(Prompt(document=document, text=text[:cut], reference=reference))
    return prompts


def complete(
    generate: Generate,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    samplings: Mapping[str, Mapping[str, Any]],
    max_prompt_tokens: int,
    document_prefix: DocumentPrefix | None,
) -> list[dict[str, Any]]:
    """Completions of each prompt under each named sampling (keywords of generate), as results.json has them.

    A prompt begins as documents do in training (`scoring.prefix_policy`), and keeps its last max_prompt_tokens tokens.
    Generation stops at EOS, which is not shown.
    """
    first = prefix_id(tokenizer, document_prefix)
    encoded = [np.concatenate([[first], tokens]) for tokens in tokenizer.encode_batch([p.text for p in prompts])]
    inputs = [[int(token) for token in tokens[-max_prompt_tokens:]] for tokens in encoded]
    stop_ids = [] if tokenizer.eos_id is None else [int(tokenizer.eos_id)]
    rows = []
    for name, sampling in samplings.items():
        outputs = generate(inputs, max_new_tokens=max_new_tokens, stop_ids=stop_ids, **sampling)
        for prompt, tokens in zip(prompts, outputs, strict=True):
            kept = [token for token in tokens if token not in stop_ids]
            rows.append(
                {
                    "document": prompt.document,
                    "prompt": prompt.text,
                    "completion": tokenizer.decode(kept),
                    "reference": prompt.reference,
                    "sampling": name,
                    **sampling,
                    "num_tokens": len(kept),
                    "stopped": len(kept) < max_new_tokens,
                }
            )
    return rows
