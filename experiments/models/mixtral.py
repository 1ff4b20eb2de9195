"""Mixtral 8x7B (Jiang et al. 2024, arXiv:2401.04088, table 1) and 8x22B (its model card), for 32,000 tokens."""

from marin.models.mixtral import MixtralConfig

mixtral_8x7b = MixtralConfig(
    seq_len=8192,
    hidden_dim=4096,
    intermediate_dim=14336,
    num_heads=32,
    num_kv_heads=8,
    num_layers=32,
    num_experts=8,
    experts_per_token=2,
)
mixtral_8x22b = MixtralConfig(
    seq_len=8192,
    hidden_dim=6144,
    intermediate_dim=16384,
    num_heads=48,
    num_kv_heads=8,
    num_layers=56,
    num_experts=8,
    experts_per_token=2,
)
