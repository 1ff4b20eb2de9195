"""A chat model's answers to instructions, in the form that AlpacaEval compares: instruction, output, generator."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from marin.evaluation.exported import ExportedModel
from marin.evaluation.scoring import prefix_id, resolve_prefix
from marin.inference.generate import generate
from marin.processing.tokenize.chat import ChatTemplate
from marin.processing.tokenize.config import ChatFormat


def answer_instructions(
    exported: ExportedModel,
    chat: ChatFormat,
    instructions: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    generator: str,
) -> tuple[list[dict[str, Any]], int]:
    """(a row for each instruction, in their order; how many were too long for the model and have none).

    Each is a conversation of one turn in the words of the chat template, with what training put before a document in
    front. An answer ends at the token that ends turns, at end-of-text, or after max_new_tokens; these tokens are not
    in the output. What an instruction gets depends on its place in the list and the seed.

    Raises RecipeError for a model without a chat template, and ValueError where no instruction leaves room for an
    answer.
    """
    template = ChatTemplate(chat, exported.tokenizer)
    # of models from elsewhere nothing is known; there a BOS stands in front where the tokenizer has one, else nothing
    known = exported.document_prefix is not None or resolve_prefix(exported.tokenizer, None) == "bos"
    lead = [prefix_id(exported.tokenizer, exported.document_prefix)] if known else []
    seq_len = exported.loaded.config.seq_len
    prompts: list[tuple[str, list[int]]] = []
    for instruction in instructions:
        ids = template.encode_prompt([{"role": chat.input_role, "content": instruction}])
        if len(lead) and len(ids) and ids[0] == lead[0]:  # the template writes it
            ids = ids[1:]
        prompt = np.concatenate([np.array(lead, np.int32), ids])
        if len(prompt) + max_new_tokens <= seq_len:
            prompts.append((instruction, prompt.tolist()))
    if not prompts:
        raise ValueError(
            f"no instruction leaves room for {max_new_tokens} new tokens in the {seq_len} that the model reads: use a "
            "smaller max_new_tokens"
        )
    answers = generate(
        exported.loaded.config,
        exported.loaded.params,
        [prompt for _, prompt in prompts],
        max_new_tokens=max_new_tokens,
        stop_ids={template.stop_id, exported.tokenizer.eos_id},
        temperature=temperature,
        seed=seed,
    )
    rows = [
        {"instruction": instruction, "output": exported.tokenizer.decode(tokens), "generator": generator}
        for (instruction, _), tokens in zip(prompts, answers, strict=True)
    ]
    return rows, len(instructions) - len(prompts)
