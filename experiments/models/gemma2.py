"""The sizes of Gemma 2 (Gemma team 2024, arXiv:2408.00118, table 1), for its vocabulary of 256,000 tokens."""

from marin.models.gemma2 import Gemma2Config

gemma2_2b = Gemma2Config(
    seq_len=8192,
    hidden_dim=2304,
    intermediate_dim=9216,
    num_heads=8,
    num_kv_heads=4,
    num_layers=26,
)
gemma2_9b = Gemma2Config(
    seq_len=8192,
    hidden_dim=3584,
    intermediate_dim=14336,
    num_heads=16,
    num_kv_heads=8,
    num_layers=42,
)
gemma2_27b = Gemma2Config(
    seq_len=8192,
    hidden_dim=4608,
    intermediate_dim=36864,
    num_heads=32,
    num_kv_heads=16,
    num_layers=46,
    head_dim=128,
    query_pre_attn_scalar=144,
)
