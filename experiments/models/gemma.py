"""The sizes of Gemma 1 (Gemma team 2024, arXiv:2403.08295, table 1), for its vocabulary of 256,000 tokens."""

from marin.models.gemma import GemmaConfig

gemma_2b = GemmaConfig(
    seq_len=8192,
    hidden_dim=2048,
    intermediate_dim=16384,
    num_heads=8,
    num_kv_heads=1,
    num_layers=18,
)
gemma_7b = GemmaConfig(
    seq_len=8192,
    hidden_dim=3072,
    intermediate_dim=24576,
    num_heads=16,
    num_kv_heads=16,
    num_layers=28,
)
