"""Mistral 7B v0.1 (Jiang et al. 2023, arXiv:2310.06825, table 1), for its vocabulary of 32,000 tokens, and later ones.

v0.3 has 32,768 tokens and no window, Nemo 131,072 (their model cards).
"""

from marin.models.mistral import MistralConfig
from marin.models.rotary import DefaultRotaryEmbeddingsConfig

mistral_7b = MistralConfig(
    seq_len=8192,
    hidden_dim=4096,
    intermediate_dim=14336,
    num_heads=32,
    num_kv_heads=8,
    num_layers=32,
    sliding_window=4096,
)
mistral_7b_v0_3 = MistralConfig(
    seq_len=8192,
    hidden_dim=4096,
    intermediate_dim=14336,
    num_heads=32,
    num_kv_heads=8,
    num_layers=32,
    rope=DefaultRotaryEmbeddingsConfig(theta=1_000_000.0),
)
mistral_nemo_12b = MistralConfig(
    seq_len=8192,
    hidden_dim=5120,
    intermediate_dim=14336,
    num_heads=32,
    num_kv_heads=8,
    num_layers=40,
    head_dim=128,
    rope=DefaultRotaryEmbeddingsConfig(theta=1_000_000.0),
)
