"""Muon: the momentum of each matrix, made nearly orthogonal; AdamW for all that is no matrix.

Source: Jordan et al. 2024, github.com/KellerJordan/Muon; weight decay and `consistent_rms` from Liu et al. 2025,
arXiv:2502.16982. For each matrix `X` (inputs by outputs; `marin.optim.matrices` says which those are: of a fused array
query, key, value, gate and up each count alone), update `t` (from 1) with gradient `G` and rate `lr_t`:

    M = momentum * M + (1 - momentum) * G
    N = momentum * M / (1 - momentum^(t+1)) + (1 - momentum) * G / (1 - momentum^t)      nesterov; else N = M
    Y = N / |N|, then num_iterations times:  A = Y Y^T,  Y = a Y + (b A + c A A) Y
                                                                 with (a, b, c) = (3.4445, -4.7750, 2.0315)
    X = X - lr_t * ( Y * scale + weight_decay * X )

`Y` is about `U V^T` of `N = U S V^T` (singular values between 0.5 and 1.5). `scale` is
`consistent_rms * sqrt(max(inputs, outputs))`, which makes updates as large as AdamW's usually are, so that one rate
serves matrices and the rest; with `consistent_rms: null` it is `sqrt(max(1, outputs / inputs))`, Jordan's, which wants
a rate of its own (0.02 is his) beside `adam_learning_rate`. Newton-Schulz runs in the dtype of the parameters.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marin.optim.settings import OptimizerSettings

if TYPE_CHECKING:
    import optax

    from marin.optim.matrices import MatrixPart


@dataclass(frozen=True, kw_only=True)
class MuonConfig(OptimizerSettings):
    """Muon for matrices, AdamW for embeddings, unembedding, norms and biases, and the schedule of both."""

    momentum: float = 0.95
    """Decay of the mean of gradients of matrices."""
    nesterov: bool = True
    """Look one update ahead in the momentum."""
    num_iterations: int = 5
    """Newton-Schulz iterations."""
    consistent_rms: float | None = 0.2
    """Root mean square of a matrix' direction (about); None scales by shape as Jordan does."""
    adam_learning_rate: float | None = None
    """Peak rate of the rest; None is learning_rate. It follows the same schedule. (Weight decay goes by the latter.)"""
    beta1: float = 0.9
    """AdamW's, of the rest."""
    beta2: float = 0.95
    """AdamW's, of the rest."""
    epsilon: float = 1e-8
    """AdamW's, of the rest."""
    cautious: bool = False
    """Drop the parts of an update that point against the gradient; see `marin.optim.cautious`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_fractions("momentum", "beta1", "beta2")
        self._check_not_negative("epsilon")
        self._check_at_least_one(["num_iterations"])
        for name in ("consistent_rms", "adam_learning_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be more than 0, or None; got {value!r}")

    def transformation(self, decay_mask: Any, direction_scale: Any = None) -> "optax.GradientTransformation":
        """The bracket of the formula above, as an optax transformation (state: of matrices and of the rest)."""
        import optax
        from optax import contrib

        from marin.optim.cautious import cautious
        from marin.optim.matrices import by_matrix

        if direction_scale is not None and self.consistent_rms is not None:
            raise ValueError(
                f"consistent_rms={self.consistent_rms} makes Muon's updates grow with the width, which muP must not. "
                "Set consistent_rms to null: its scale by shape transfers between widths, and muP scales the rest."
            )

        def of_matrices(parts: "Mapping[str, MatrixPart]") -> "optax.GradientTransformation":
            axes = {name: contrib.MuonDimensionNumbers(part.inputs, part.outputs) for name, part in parts.items()}

            def scaled(directions: Any, _: Any) -> Any:
                return {name: y * self._scale(parts[name], y.shape) for name, y in directions.items()}

            return optax.chain(
                contrib.scale_by_muon(
                    beta=self.momentum,
                    nesterov=self.nesterov,
                    ns_steps=self.num_iterations,
                    weight_dimension_numbers=lambda _: axes,
                ),
                optax.stateless(scaled),
            )

        ratio = 1.0 if self.adam_learning_rate is None else self.adam_learning_rate / self.learning_rate
        adam = optax.chain(optax.scale_by_adam(b1=self.beta1, b2=self.beta2, eps=self.epsilon), optax.scale(ratio))
        muon = by_matrix(decay_mask, of_matrices, adam, rest_scale=direction_scale)
        return self.with_decay(cautious(muon) if self.cautious else muon, decay_mask, None)

    def _scale(self, part: "MatrixPart", shape: tuple[int, ...]) -> float:
        inputs, outputs = (math.prod(shape[axis] for axis in axes) for axes in (part.inputs, part.outputs))
        if self.consistent_rms is not None:
            return self.consistent_rms * math.sqrt(max(inputs, outputs))
        return math.sqrt(max(1.0, outputs / inputs))
