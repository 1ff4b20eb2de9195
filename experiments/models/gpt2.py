"""The four sizes of GPT-2 (Radford et al. 2019), for its vocabulary of 50,257 tokens."""

from marin.models.gpt2 import Gpt2Config

gpt2_small = Gpt2Config(seq_len=1024, hidden_dim=768, num_layers=12, num_heads=12)
gpt2_medium = Gpt2Config(seq_len=1024, hidden_dim=1024, num_layers=24, num_heads=16)
gpt2_large = Gpt2Config(seq_len=1024, hidden_dim=1280, num_layers=36, num_heads=20)
gpt2_xl = Gpt2Config(seq_len=1024, hidden_dim=1600, num_layers=48, num_heads=25)
