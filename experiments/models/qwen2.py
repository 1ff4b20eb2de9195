"""Sizes of Qwen2 (Qwen team 2024, arXiv:2407.10671, table 1) and of Qwen2.5 where it has others (arXiv:2412.15115).

Their vocabulary has 151,936 rows up to 3B, 152,064 beyond.
"""

from marin.models.qwen2 import Qwen2Config

qwen2_0_5b = Qwen2Config(
    seq_len=4096,
    hidden_dim=896,
    intermediate_dim=4864,
    num_heads=14,
    num_kv_heads=2,
    num_layers=24,
    tie_word_embeddings=True,
)
qwen2_1_5b = Qwen2Config(
    seq_len=4096,
    hidden_dim=1536,
    intermediate_dim=8960,
    num_heads=12,
    num_kv_heads=2,
    num_layers=28,
    tie_word_embeddings=True,
)
qwen2_7b = Qwen2Config(
    seq_len=4096,
    hidden_dim=3584,
    intermediate_dim=18944,
    num_heads=28,
    num_kv_heads=4,
    num_layers=28,
)
qwen2_72b = Qwen2Config(
    seq_len=4096,
    hidden_dim=8192,
    intermediate_dim=29568,
    num_heads=64,
    num_kv_heads=8,
    num_layers=80,
    layer_norm_epsilon=1e-5,
)
qwen2_5_3b = Qwen2Config(
    seq_len=4096,
    hidden_dim=2048,
    intermediate_dim=11008,
    num_heads=16,
    num_kv_heads=2,
    num_layers=36,
    tie_word_embeddings=True,
)
qwen2_5_14b = Qwen2Config(
    seq_len=4096,
    hidden_dim=5120,
    intermediate_dim=13824,
    num_heads=40,
    num_kv_heads=8,
    num_layers=48,
    layer_norm_epsilon=1e-5,
)
qwen2_5_32b = Qwen2Config(
    seq_len=4096,
    hidden_dim=5120,
    intermediate_dim=27648,
    num_heads=40,
    num_kv_heads=8,
    num_layers=64,
    layer_norm_epsilon=1e-5,
)
