"""Tokenizers that experiments share, as steps: a folder with tokenizer.json, at a pinned commit."""

from marin.download.api import hub_repository

# Settled on after a comparison with those of Llama 2 and GPT-NeoX: best in bits per byte (issue 524 of the reference
# project). Its terms must be accepted on the hub, and HF_TOKEN set.
llama3_tokenizer = hub_repository(
    "tokenizers/llama3",
    "meta-llama/Llama-3.1-8B",
    revision="d04e592bb4f6aa9cfee91e2e20afa771667e1d4b",
    files=("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    kind="models",
)
