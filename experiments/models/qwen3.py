"""The dense sizes of Qwen3 (Qwen team 2025, arXiv:2505.09388, table 1), for its vocabulary of 151,936 rows."""

from marin.models.qwen3 import Qwen3Config

qwen3_0_6b = Qwen3Config(
    seq_len=4096,
    hidden_dim=1024,
    intermediate_dim=3072,
    num_heads=16,
    num_kv_heads=8,
    num_layers=28,
    head_dim=128,
    tie_word_embeddings=True,
)
qwen3_1_7b = Qwen3Config(
    seq_len=4096,
    hidden_dim=2048,
    intermediate_dim=6144,
    num_heads=16,
    num_kv_heads=8,
    num_layers=28,
    head_dim=128,
    tie_word_embeddings=True,
)
qwen3_4b = Qwen3Config(
    seq_len=4096,
    hidden_dim=2560,
    intermediate_dim=9728,
    num_heads=32,
    num_kv_heads=8,
    num_layers=36,
    head_dim=128,
    tie_word_embeddings=True,
)
qwen3_8b = Qwen3Config(
    seq_len=4096,
    hidden_dim=4096,
    intermediate_dim=12288,
    num_heads=32,
    num_kv_heads=8,
    num_layers=36,
    head_dim=128,
)
qwen3_14b = Qwen3Config(
    seq_len=4096,
    hidden_dim=5120,
    intermediate_dim=17408,
    num_heads=40,
    num_kv_heads=8,
    num_layers=40,
    head_dim=128,
)
qwen3_32b = Qwen3Config(
    seq_len=4096,
    hidden_dim=5120,
    intermediate_dim=25600,
    num_heads=64,
    num_kv_heads=8,
    num_layers=64,
    head_dim=128,
)
