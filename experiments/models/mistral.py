"""Mistral 7B v0.1 (Jiang et al. 2023, arXiv:2310.06825, table 1), for its vocabulary of 32,000 tokens."""

from marin.models.mistral import MistralConfig

mistral_7b = MistralConfig(
    seq_len=8192,
    hidden_dim=4096,
    intermediate_dim=14336,
    num_heads=32,
    num_kv_heads=8,
    num_layers=32,
    sliding_window=4096,
)
