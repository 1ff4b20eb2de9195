"""Rotary frequencies: how fast each pair of a head's dimensions turns with the position.

Plain NumPy in float64, rounded to float32 once, so that a model, its export and a reader of the export agree bit for
bit on the angles' rates.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from marin.config import register_choice


@runtime_checkable
class RotaryEmbeddingsConfig(Protocol):
    """A rule for the rotary frequencies."""

    @property
    def theta(self) -> float:
        """Base of the frequencies; larger turns the slow pairs more slowly."""
        ...

    def inverse_frequencies(self, head_dim: int) -> Float[np.ndarray, " half_dim"]:
        """Radians per position of each of the head_dim / 2 pairs, float32."""
        ...


@dataclass(frozen=True, kw_only=True)
class DefaultRotaryEmbeddingsConfig:
    """theta ** (-2 i / head_dim) for pair i (Su et al. 2021)."""

    theta: float = 10_000.0
    """Base of the frequencies; larger turns the slow pairs more slowly."""

    def inverse_frequencies(self, head_dim: int) -> Float[np.ndarray, " half_dim"]:
        """Radians per position of each pair, float32."""
        return _frequencies(self.theta, head_dim).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class LinearRotaryEmbeddingsConfig:
    """The default frequencies, all slowed by one factor (Chen et al. 2023, "position interpolation")."""

    theta: float = 10_000.0
    """Base of the frequencies."""
    factor: float = 8.0
    """How many times slower every pair turns."""

    def inverse_frequencies(self, head_dim: int) -> Float[np.ndarray, " half_dim"]:
        """Radians per position of each pair, float32."""
        return (_frequencies(self.theta, head_dim) / self.factor).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Llama3RotaryEmbeddingsConfig:
    """Llama 3.1's stretching of the default frequencies to longer contexts (Llama team 2024, "The Llama 3 herd").

    With wavelength w = 2 pi / frequency and L = original_max_position_embeddings: pairs with w > L / low_freq_factor
    are slowed by `factor`, those with w < L / high_freq_factor are kept, and between the two bounds the frequency is
    interpolated linearly in L / w.
    """

    theta: float = 500_000.0
    """Base of the frequencies."""
    factor: float = 8.0
    """How many times slower the slow pairs turn."""
    low_freq_factor: float = 1.0
    """Pairs with fewer turns than this in the original context are slowed fully."""
    high_freq_factor: float = 4.0
    """Pairs with more turns than this in the original context are left alone."""
    original_max_position_embeddings: int = 8192
    """Context in tokens before stretching."""

    def __post_init__(self):
        if not self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor={self.low_freq_factor} must be below high_freq_factor={self.high_freq_factor}"
            )

    def inverse_frequencies(self, head_dim: int) -> Float[np.ndarray, " half_dim"]:
        """Radians per position of each pair, float32."""
        frequencies = _frequencies(self.theta, head_dim)
        turns = self.original_max_position_embeddings * frequencies / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = np.clip(kept, 0.0, 1.0)
        return (kept * frequencies + (1 - kept) * frequencies / self.factor).astype(np.float32)


def _frequencies(theta: float, head_dim: int) -> np.ndarray:
    return theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


register_choice(RotaryEmbeddingsConfig, "default", "marin.models.rotary:DefaultRotaryEmbeddingsConfig")
register_choice(RotaryEmbeddingsConfig, "llama3", "marin.models.rotary:Llama3RotaryEmbeddingsConfig")
register_choice(RotaryEmbeddingsConfig, "linear", "marin.models.rotary:LinearRotaryEmbeddingsConfig")
