"""The sizes of Gemma 3 without vision (Gemma team 2025, arXiv:2503.19786), for its vocabulary of 262,144 tokens."""

from marin.models.gemma3 import Gemma3Config
from marin.models.rotary import LinearRotaryEmbeddingsConfig

# How the larger ones were stretched to 128K tokens.
_STRETCHED = LinearRotaryEmbeddingsConfig(theta=1_000_000.0, factor=8.0)

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
gemma3_4b = Gemma3Config(
    seq_len=8192,
    hidden_dim=2560,
    intermediate_dim=10240,
    num_heads=8,
    num_kv_heads=4,
    num_layers=34,
    rope=_STRETCHED,
)
gemma3_12b = Gemma3Config(
    seq_len=8192,
    hidden_dim=3840,
    intermediate_dim=15360,
    num_heads=16,
    num_kv_heads=8,
    num_layers=48,
    rope=_STRETCHED,
)
gemma3_27b = Gemma3Config(
    seq_len=8192,
    hidden_dim=5376,
    intermediate_dim=21504,
    num_heads=32,
    num_kv_heads=16,
    num_layers=62,
    head_dim=128,
    query_pre_attn_scalar=168,
    rope=_STRETCHED,
)
