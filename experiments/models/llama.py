"""Llamas from small to large, with the Llama 3 vocabulary in mind (128,256 tokens).

Up to 1.9B, 3.5B, 13B, 24B, 32B and 56B the shapes are this project's own, for scaling studies and pretraining; the
other ones are those of Meta's models (Touvron et al. 2023, arXiv:2307.09288, for 32,000 tokens; Llama team 2024,
arXiv:2407.21783). `seq_len` is what they are trained at here, not how far a published one was stretched.
"""

from marin.models.llama import LlamaConfig
from marin.models.rotary import DefaultRotaryEmbeddingsConfig, Llama3RotaryEmbeddingsConfig

llama_nano = LlamaConfig(seq_len=512, hidden_dim=32, intermediate_dim=128, num_heads=2, num_kv_heads=2, num_layers=2)
# 34 million parameters, of which 33 are embeddings.
llama_30m = LlamaConfig(seq_len=1024, hidden_dim=128, intermediate_dim=448, num_heads=2, num_kv_heads=2, num_layers=4)
llama_50m = LlamaConfig(seq_len=1024, hidden_dim=192, intermediate_dim=448, num_heads=2, num_kv_heads=2, num_layers=4)
llama_75m = LlamaConfig(seq_len=1024, hidden_dim=256, intermediate_dim=896, num_heads=4, num_kv_heads=4, num_layers=8)
llama_150m = LlamaConfig(seq_len=1024, hidden_dim=512, intermediate_dim=1792, num_heads=8, num_kv_heads=8, num_layers=6)
llama_300m = LlamaConfig(
    seq_len=1024, hidden_dim=768, intermediate_dim=2688, num_heads=12, num_kv_heads=12, num_layers=12
)
llama_600m = LlamaConfig(
    seq_len=1024, hidden_dim=1024, intermediate_dim=3584, num_heads=16, num_kv_heads=8, num_layers=24
)
llama_1_4b = LlamaConfig(
    seq_len=4096, hidden_dim=2048, intermediate_dim=7168, num_heads=16, num_kv_heads=8, num_layers=16
)
llama_1_9b = LlamaConfig(
    seq_len=4096, hidden_dim=2048, intermediate_dim=7168, num_heads=16, num_kv_heads=8, num_layers=24
)
llama_3_5b = LlamaConfig(
    seq_len=4096, hidden_dim=2560, intermediate_dim=8960, num_heads=20, num_kv_heads=10, num_layers=32
)
llama_3_2_1b = LlamaConfig(
    seq_len=4096,
    hidden_dim=2048,
    intermediate_dim=8192,
    num_heads=32,
    num_kv_heads=8,
    num_layers=16,
    rope=Llama3RotaryEmbeddingsConfig(factor=32.0),
    tie_word_embeddings=True,
)
llama_3_2_3b = LlamaConfig(
    seq_len=4096,
    hidden_dim=3072,
    intermediate_dim=8192,
    num_heads=24,
    num_kv_heads=8,
    num_layers=28,
    rope=Llama3RotaryEmbeddingsConfig(factor=32.0),
    tie_word_embeddings=True,
)
llama_8b = LlamaConfig(
    seq_len=4096,
    hidden_dim=4096,
    intermediate_dim=14336,
    num_heads=32,
    num_kv_heads=8,
    num_layers=32,
    rope=Llama3RotaryEmbeddingsConfig(),
)
# The default frequencies, which the first phases of the 8B run were trained with.
llama_8b_old_rotary = LlamaConfig(
    seq_len=4096,
    hidden_dim=4096,
    intermediate_dim=14336,
    num_heads=32,
    num_kv_heads=8,
    num_layers=32,
    rope=DefaultRotaryEmbeddingsConfig(),
)
llama_13b = LlamaConfig(
    seq_len=4096,
    hidden_dim=5120,
    intermediate_dim=13824,
    num_heads=40,
    num_kv_heads=8,
    num_layers=40,
    rope=Llama3RotaryEmbeddingsConfig(),
)
llama_24b = LlamaConfig(
    seq_len=4096,
    hidden_dim=6144,
    intermediate_dim=16384,
    num_heads=48,
    num_kv_heads=16,
    num_layers=56,
    rope=Llama3RotaryEmbeddingsConfig(),
)
# The widths of OLMo 2 32B.
llama_32b = LlamaConfig(
    seq_len=4096,
    hidden_dim=5120,
    intermediate_dim=27648,
    num_heads=40,
    num_kv_heads=8,
    num_layers=64,
    rope=Llama3RotaryEmbeddingsConfig(),
)
llama_56b = LlamaConfig(
    seq_len=4096,
    hidden_dim=8192,
    intermediate_dim=28672,
    num_heads=64,
    num_kv_heads=8,
    num_layers=64,
    rope=Llama3RotaryEmbeddingsConfig(),
)
llama_70b = LlamaConfig(
    seq_len=4096,
    hidden_dim=8192,
    intermediate_dim=28672,
    num_heads=64,
    num_kv_heads=8,
    num_layers=80,
    rope=Llama3RotaryEmbeddingsConfig(),
)
llama_405b = LlamaConfig(
    seq_len=4096,
    hidden_dim=16384,
    intermediate_dim=53248,
    num_heads=128,
    num_kv_heads=8,
    num_layers=126,
    rope=Llama3RotaryEmbeddingsConfig(),
)
llama2_7b = LlamaConfig(
    seq_len=4096, hidden_dim=4096, intermediate_dim=11008, num_heads=32, num_kv_heads=32, num_layers=32
)
llama2_13b = LlamaConfig(
    seq_len=4096, hidden_dim=5120, intermediate_dim=13824, num_heads=40, num_kv_heads=40, num_layers=40
)
llama2_70b = LlamaConfig(
    seq_len=4096, hidden_dim=8192, intermediate_dim=28672, num_heads=64, num_kv_heads=8, num_layers=80
)
