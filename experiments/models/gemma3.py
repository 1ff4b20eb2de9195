"""The sizes of Gemma 3 without vision (Gemma team 2025, arXiv:2503.19786), for its vocabulary of 262,144 tokens."""

from marin.models.gemma3 import Gemma3Config

gemma3_270m = Gemma3Config(
    seq_len=32768,
    sliding_window=512,
    hidden_dim=640,
    intermediate_dim=2048,
    num_heads=4,
    num_kv_heads=1,
    num_layers=18,
)
gemma3_1b = Gemma3Config(
    seq_len=32768,
    sliding_window=512,
    hidden_dim=1152,
    intermediate_dim=6912,
    num_heads=4,
    num_kv_heads=1,
    num_layers=26,
)
