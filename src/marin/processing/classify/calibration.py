"""Probabilities that mean what they say: of texts scored 0.8, eight in ten have the label.

A classifier that was trained to the end is too sure of itself. One number puts most of that right (temperature, Guo et
al. 2017); with two labels a second moves the point of even odds (Platt 1999). Both are fitted on texts that training
did not see. Thresholds by value get their meaning; the likeliest of three labels or more stays the likeliest.

With two labels the order of texts by score stays as well, so no filter by quantile changes. With more it does not: a
label's probability depends on how far all others lie behind, which the temperature weighs anew.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Logits times `scale`, plus `offset` where there are two labels: the log odds of the first."""

    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale is {self.scale}; it is above 0, or scores would be turned around")

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """float64 (texts, labels) of logits (texts, labels), or of the log odds of the first of two (texts, 1)."""
        if logits.shape[1] == 1:
            first = 1 / (1 + np.exp(-(self.scale * logits[:, 0] + self.offset)))
            return np.stack([first, 1 - first], axis=1)
        scaled = self.scale * logits
        weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)


def fit_calibration(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """The calibration with the least log loss on these texts, by Newton's method.

    logits: float64 (texts, labels) or (texts, 1) as of `LinearClassifier.logits`; labels: int (texts,). With two labels
    the targets are Platt's: (n1 + 1) / (n1 + 2) and 1 / (n0 + 2), so that separable texts have a finite answer too.
    Raises ValueError where there are no texts, and where the scores of two labels say nothing of these texts, or the
    contrary: the best scale is then not above 0.
    """
    if len(logits) == 0:
        raise ValueError("no held-out texts to calibrate on; raise calibration_fraction or give more documents")
    if logits.shape[1] == 1:
        return _fit_platt(logits[:, 0], labels == 0)
    return _fit_temperature(logits, labels)


def _fit_platt(log_odds: np.ndarray, is_first: np.ndarray) -> Calibration:
    num_first, num_second = int(is_first.sum()), int((~is_first).sum())
    targets = np.where(is_first, (num_first + 1) / (num_first + 2), 1 / (num_second + 2))
    design = np.stack([log_odds, np.ones(len(log_odds))], axis=1)

    def loss(parameters: np.ndarray) -> float:
        values = design @ parameters
        return float((np.logaddexp(0, values) - targets * values).sum())

    parameters = np.array([1.0, 0.0])
    for _ in range(100):
        probabilities = 1 / (1 + np.exp(-(design @ parameters)))
        gradient = design.T @ (probabilities - targets)
        weights = probabilities * (1 - probabilities)
        hessian = (design * weights[:, None]).T @ design + 1e-10 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        before, length = loss(parameters), 1.0
        while loss(parameters - length * step) > before and length > 1e-8:
            length /= 2
        parameters = parameters - length * step
        if np.abs(length * step).max() < 1e-9:
            break
    if not parameters[0] > 0:
        raise ValueError(
            f"the scores say nothing of the {len(log_odds)} held-out texts, {num_first} of them with the first label: "
            f"the best scale for them is {parameters[0]:.3g}, and must be above 0. Train longer, or give more documents"
        )
    return Calibration(scale=float(parameters[0]), offset=float(parameters[1]))


# A perfect held-out set asks for infinite certainty; beyond this nothing would change but rounding.
_LARGEST_LOG_SCALE = 4.0


def _fit_temperature(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Least log loss over the log of the scale, which is convex in the scale: golden section."""

    def loss(log_scale: float) -> float:
        scaled = np.exp(log_scale) * logits
        largest = scaled.max(axis=1)
        normalizer = largest + np.log(np.exp(scaled - largest[:, None]).sum(axis=1))
        return float((normalizer - scaled[np.arange(len(labels)), labels]).mean())

    low, high = -_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    return Calibration(scale=float(np.exp((low + high) / 2)))


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Texts whose likeliest label has a probability between `low` and `high`."""

    low: float
    high: float
    num_texts: int
    mean_probability: float
    accuracy: float


def reliability(probabilities: np.ndarray, labels: np.ndarray, *, num_bins: int = 10) -> list[ReliabilityBin]:
    """How often the likeliest label is right, by how likely it was said to be; bins without texts are left out."""
    confidence, is_right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = []
    edges = np.linspace(0, 1, num_bins + 1)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        # the first bin has its lower edge too
        inside = (confidence > low) & (confidence <= high) if low > 0 else confidence <= high
        if inside.any():
            bins.append(
                ReliabilityBin(
                    low=round(float(low), 10),
                    high=round(float(high), 10),
                    num_texts=int(inside.sum()),
                    mean_probability=float(confidence[inside].mean()),
                    accuracy=float(is_right[inside].mean()),
                )
            )
    return bins


def expected_calibration_error(bins: list[ReliabilityBin]) -> float:
    """Mean distance between confidence and accuracy, each bin weighted by its texts (Naeini et al. 2015)."""
    num_texts = sum(part.num_texts for part in bins)
    return sum(part.num_texts * abs(part.mean_probability - part.accuracy) for part in bins) / max(1, num_texts)
