"""The sizes of OLMo 2 (OLMo team 2024, arXiv:2501.00656), for its vocabulary of 100,352 rows."""

from marin.models.olmo2 import Olmo2Config

olmo2_1b = Olmo2Config(
    seq_len=4096,
    hidden_dim=2048,
    intermediate_dim=8192,
    num_heads=16,
    num_kv_heads=16,
    num_layers=16,
)
olmo2_7b = Olmo2Config(
    seq_len=4096,
    hidden_dim=4096,
    intermediate_dim=11008,
    num_heads=32,
    num_kv_heads=32,
    num_layers=32,
)
olmo2_13b = Olmo2Config(
    seq_len=4096,
    hidden_dim=5120,
    intermediate_dim=13824,
    num_heads=40,
    num_kv_heads=40,
    num_layers=40,
)
olmo2_32b = Olmo2Config(
    seq_len=4096,
    hidden_dim=5120,
    intermediate_dim=27648,
    num_heads=40,
    num_kv_heads=8,
    num_layers=64,
)
