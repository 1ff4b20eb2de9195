"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner; AdamW for all that is no matrix.

Source: Vyas et al. 2024, arXiv:2409.11321 (algorithm 3), and its authors' code. For each matrix `X` (inputs by outputs;
`marin.optim.matrices` says which those are), update `t` (from 1) with gradient `G` and rate `lr_t`:

    t = 1:   L = (1 - shampoo_beta) * G G^T,  R = (1 - shampoo_beta) * G^T G,  P, Q = their eigenvectors, largest first;
             X moves by weight decay alone
    t > 1:   M = beta1 * M + (1 - beta1) * G
             V = beta2 * V + (1 - beta2) * (P^T G Q)^2
             D = P ( (P^T M Q) / (1 - beta1^(t-1)) / (sqrt(V / (1 - beta2^(t-1))) + epsilon) ) Q^T
             X = X - lr_t * (D + weight_decay * X)
             L = shampoo_beta * L + (1 - shampoo_beta) * G G^T, likewise R
             each precondition_frequency updates:  P = the orthogonal factor of L P, its columns sorted by diag(P^T L P)
             before (V's rows likewise); likewise Q

A side longer than max_precondition_dim keeps its own basis: P (or Q) is the identity, and neither L nor P is kept. The
state of a matrix of m by n is `2 m n + 2 m^2 + 2 n^2`. optax has no SOAP; this one is checked against a second
implementation in numpy.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marin.optim.settings import OptimizerSettings

if TYPE_CHECKING:
    import optax


@dataclass(frozen=True, kw_only=True)
class SoapConfig(OptimizerSettings):
    """SOAP for matrices, AdamW for embeddings, unembedding, norms and biases, and the schedule of both."""

    beta1: float = 0.95
    """Decay of the mean of gradients."""
    beta2: float = 0.95
    """Decay of the mean of squared gradients."""
    shampoo_beta: float = 0.95
    """Decay of the preconditioner."""
    epsilon: float = 1e-8
    """Added to the root of the second moment."""
    precondition_frequency: int = 10
    """Updates from one renewal of the eigenvectors to the next."""
    max_precondition_dim: int = 10000
    """Longest side of a matrix that is rotated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_fractions("beta1", "beta2", "shampoo_beta")
        self._check_not_negative("epsilon")
        self._check_at_least_one(["precondition_frequency", "max_precondition_dim"])

    def transformation(self, decay_mask: Any, direction_scale: Any = None) -> "optax.GradientTransformation":
        """The direction of the formula above and weight decay (state: of matrices and of the rest)."""
        import optax

        from marin.optim.matrices import by_matrix
        from marin.optim.soap_update import scale_by_soap

        adam = optax.scale_by_adam(b1=self.beta1, b2=self.beta2, eps=self.epsilon)
        soap = by_matrix(decay_mask, lambda parts: scale_by_soap(self, parts), adam)
        return self.with_decay(soap, decay_mask, direction_scale)
