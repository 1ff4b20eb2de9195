"""How good a classifier is on texts that it was not trained on, with error bars."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from marin.processing.classify.calibration import expected_calibration_error, reliability

# Half the width of a 95% interval, in standard deviations.
Z_95 = 1.959963984540054


def wilson_interval(num_right: int, num_texts: int) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927), which stays between 0 and 1 and is honest about 0 of 5."""
    if num_texts == 0:
        return 0.0, 1.0
    share, z2 = num_right / num_texts, Z_95**2
    center = (share + z2 / (2 * num_texts)) / (1 + z2 / num_texts)
    half = Z_95 / (1 + z2 / num_texts) * np.sqrt(share * (1 - share) / num_texts + z2 / (4 * num_texts**2))
    # rounding must not put the share itself outside
    return min(share, max(0.0, float(center - half))), max(share, min(1.0, float(center + half)))


def area_under_curve(scores: np.ndarray, is_positive: np.ndarray) -> tuple[float, float]:
    """(AUC, its standard error): how often a positive text is scored above a negative one, ties counting half.

    The error is Hanley and McNeil's (1982). Raises ValueError unless there are texts of both kinds.
    """
    num_positive, num_negative = int(is_positive.sum()), int((~is_positive).sum())
    if not num_positive or not num_negative:
        raise ValueError(f"{num_positive} positive and {num_negative} negative texts; AUC needs both")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    auc = (ranks[is_positive].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)
    of_two_positive, of_two_negative = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (
        auc * (1 - auc)
        + (num_positive - 1) * (of_two_positive - auc**2)
        + (num_negative - 1) * (of_two_negative - auc**2)
    ) / (num_positive * num_negative)
    return float(auc), float(np.sqrt(max(0.0, variance)))


def evaluate(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Accuracy with its interval, log loss, reliability, and of each label precision, recall and confusions.

    probabilities: float64 (texts, labels); labels: int (texts,). Texts with NaN (no feature) count as wrong, and are
    told. With two labels also AUC, the first label being the positive one.
    """
    num_texts = len(labels)
    has_features = ~np.isnan(probabilities).any(axis=1)
    chosen = np.where(has_features, np.nan_to_num(probabilities).argmax(axis=1), -1)
    is_right = chosen == labels
    of_label = probabilities[np.arange(num_texts), labels][has_features]
    bins = reliability(probabilities[has_features], labels[has_features])
    measured: dict[str, Any] = {
        "num_texts": num_texts,
        "num_without_features": int((~has_features).sum()),
        "accuracy": float(is_right.mean()) if num_texts else None,
        "accuracy_interval": wilson_interval(int(is_right.sum()), num_texts),
        "log_loss": float(-np.log(np.maximum(of_label, 1e-12)).mean()) if len(of_label) else None,
        "expected_calibration_error": expected_calibration_error(bins),
        "reliability": [vars(part) for part in bins],
        "labels": {},
    }
    for index, name in enumerate(names):
        is_label, is_chosen = labels == index, chosen == index
        num_label, num_found = int(is_label.sum()), int((is_label & is_chosen).sum())
        others = np.bincount(chosen[is_label & (chosen >= 0)], minlength=len(names))
        measured["labels"][name] = {
            "num_texts": num_label,
            "recall": num_found / num_label if num_label else None,
            "recall_interval": wilson_interval(num_found, num_label),
            "precision": num_found / int(is_chosen.sum()) if is_chosen.any() else None,
            "taken_for": {
                names[other]: int(others[other])
                for other in np.argsort(-others, kind="stable")[:4].tolist()
                if others[other] and other != index
            },
        }
    if len(names) == 2 and has_features.any() and 0 < (labels[has_features] == 0).sum() < has_features.sum():
        auc, error = area_under_curve(probabilities[has_features, 0], labels[has_features] == 0)
        measured |= {"auc": auc, "auc_standard_error": error}
    return measured
