"""What of a model a low-rank adapter changes, as plain values; `marin.models.lora` does it.

Nothing here loads a tensor library.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Train a low-rank adapter (LoRA) and leave the model's own parameters as they are."""

    r: int
    """Rank of each adapter."""
    alpha: float
    """An adapter adds alpha / r times the product of its two matrices."""
    target_modules: tuple[str, ...] | None = None
    """Linear layers to adapt, by the end of their Hugging Face name: 'q_proj', 'mlp.c_proj'. None: all of attention and
    MLP (of a mixture of experts: of attention)."""
    include: str | None = None
    """Adapt only layers whose whole name, like `model.layers.3.self_attn.q_proj`, holds a match of this regular
    expression."""
    exclude: str | None = None
    """Of those, leave out the ones whose name holds a match of this."""

    def __post_init__(self) -> None:
        if isinstance(self.r, int) and self.r < 1:
            raise ValueError(f"lora.r is the rank and must be 1 or more, got {self.r}")
        for name in ("include", "exclude"):
            pattern = getattr(self, name)
            try:
                re.compile(pattern or "")
            except re.error as error:
                raise ValueError(f"lora.{name} is {pattern!r}, which is no regular expression: {error}") from error
