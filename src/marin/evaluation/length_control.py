"""Win rates from preferences, plain and as if both outputs had been of one length.

A preference lies in [1, 2]: 1 the baseline's output is better, 2 the model's, 1.5 a draw (older files write 0). The win
rate is the mean of p = preference - 1. Judges like long outputs, so AlpacaEval 2 predicts what the win rate would be
without a difference in length, by the logistic regression of Dubois et al., "Length-Controlled AlpacaEval" (2024), as
metrics/glm_winrate.py of tatsu-lab/alpaca_eval (0.6.6) fits it:

    logit P(model is better) = phi * tanh(d) + gamma * difficulty(instruction) + theta
    d = (len(baseline output) - len(model output)) / sample sd of that difference, in characters
    length-controlled win rate = mean over instructions of P with d = 0

with the cross-entropy to p, weight 1 for each annotation, an L1 penalty, no intercept besides theta, and the
penalty's strength chosen from ten by 5-fold cross-validation. Three forms exist there, by what is known:

    length_controlled_v1       also outputs that were made to game length, with theta left out and weight 0.1 each
    length_controlled_noreg    without these
    length_controlled_minimal  without difficulties

Difficulties and gamed outputs are in the data set tatsu-lab/alpaca_eval (df_gamed.csv), not in the annotations, and
hold for its 805 instructions and its baseline. The fit here is to convergence, where liblinear stops at 1e-4; the win
rates agree to 0.001 percentage points where they were compared. That package takes the spread of the predictions for
the standard error, which would be zero without difficulties. Ours counts what the fit does not know, too: with
b = (phi, gamma, theta), x_i the features, w_i the weights, q_i the predictions and q_i0 those at d = 0,

    SE = sd(u_i) / sqrt(n),  u_i = q_i0 + G' H^-1 w_i (p_i - q_i) x_i,
    G = mean of dq_i0 / db,  H = mean of w_i q_i (1 - q_i) x_i x_i' + the gamed outputs' share

(the sandwich estimator, of the fit without the penalty: a weight that the penalty has set to 0, as near a tie, is no
better known for it, so the error is on the cautious side there; the gamed outputs and the sd of lengths count as
given).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from marin.evaluation.statistics import Estimate, mean_estimate

Form = str
MINIMAL, NO_REGULARIZATION, V1 = "length_controlled_minimal", "length_controlled_noreg", "length_controlled_v1"

_STRENGTHS = np.logspace(-4, 4, 10)  # inverse, as scikit-learn's C
_NUM_FOLDS = 5
_GAMED_WEIGHT = 0.2 / 2  # lambda, over the two ways to game
_MAX_STEPS = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class GamedOutputs:
    """Preferences for outputs that were made long or short on purpose, by which theta and phi are told apart."""

    lengths: np.ndarray
    """float64 (m,): standardized difference in length, `std_delta_len` of df_gamed.csv."""
    difficulties: np.ndarray
    """float64 (m,)."""
    preferences: np.ndarray
    """float64 (m,), in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class LengthControlled:
    """A win rate as if lengths were equal, as a share."""

    form: Form
    """Which of the three forms."""
    estimate: Estimate
    """The win rate, with the error of the fit and of which instructions were asked."""
    stderr_of_predictions: float
    """What alpaca_eval calls lc_standard_error: sd of the predictions over sqrt(n)."""
    length_weight: float
    """phi: below 0 the judge likes long outputs."""
    difficulty_weight: float
    """gamma; 0 in the minimal form."""
    model_weight: float
    """theta."""
    strength: float
    """Inverse strength of the L1 penalty that cross-validation chose."""


def win_rate(preferences: Sequence[float] | np.ndarray) -> Estimate:
    """Share of wins, draws as a half, of preferences in [1, 2]; the error is of which instructions were asked."""
    return mean_estimate(_shares(preferences))


def discrete_win_rate(preferences: Sequence[float] | np.ndarray) -> Estimate:
    """The same of each preference rounded to win, loss or (at exactly 1.5) draw."""
    shares = _shares(preferences)
    return mean_estimate(np.where(shares == 0.5, 0.5, np.round(shares)))


def _shares(preferences: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(preferences, np.float64)
    values = np.where(values == 0, 1.5, values)
    if values.size and not (np.all(values >= 1) and np.all(values <= 2)):
        wrong = values[~((values >= 1) & (values <= 2))][0]
        raise ValueError(f"preference {wrong} is not in [1, 2]: 1 the baseline is better, 2 the model, 1.5 a draw")
    return values - 1


def length_controlled_win_rate(
    preferences: Sequence[float] | np.ndarray,
    model_lengths: Sequence[int] | np.ndarray,
    baseline_lengths: Sequence[int] | np.ndarray,
    *,
    difficulties: Sequence[float] | np.ndarray | None = None,
    gamed: GamedOutputs | None = None,
) -> LengthControlled:
    """The win rate with equal lengths, in the fullest form that the data allow; lengths are in characters.

    Raises ValueError for fewer than ten annotations (folds of two), unequal counts, outputs that all differ by one
    length (nothing can be told then), and gamed outputs without difficulties.
    """
    shares = _shares(preferences)
    parts = (shares, model_lengths, baseline_lengths, shares if difficulties is None else difficulties)
    counts = {len(part) for part in parts}
    if len(counts) > 1:
        raise ValueError(f"preferences, lengths and difficulties must be equally many; they are {sorted(counts)}")
    difference = np.asarray(baseline_lengths, np.float64) - np.asarray(model_lengths, np.float64)
    if len(shares) < 2 * _NUM_FOLDS:
        raise ValueError(f"{len(shares)} annotations; controlling for length takes {2 * _NUM_FOLDS} at least")
    spread = float(difference.std(ddof=1))
    if spread == 0:
        raise ValueError("all outputs differ by the same length: what length does to the judge cannot be told")
    if gamed is not None and difficulties is None:
        raise ValueError("gamed outputs take the difficulties of the instructions, too")
    columns = [np.tanh(difference / spread), np.ones(len(shares))]
    names = ["length", "model"]
    if difficulties is not None:
        columns.insert(1, np.asarray(difficulties, np.float64))
        names.insert(1, "difficulty")
    x, y, w = np.stack(columns, axis=1), shares, np.ones(len(shares))
    if gamed is not None:
        theirs = np.stack([np.tanh(gamed.lengths), gamed.difficulties, np.zeros(len(gamed.lengths))], axis=1)
        # before ours, as there: it decides which fold a row falls into
        x, y = np.concatenate([theirs, x]), np.concatenate([gamed.preferences, y])
        w = np.concatenate([np.full(len(theirs), _GAMED_WEIGHT), w])
    strength = _best_strength(x, y, w)
    weights = fit_logistic(x, y, w, strength)
    without_length = np.stack([np.zeros(len(shares)), *columns[1:]], axis=1)
    predicted = _logistic(without_length @ weights)
    influence = _influence(x, y, w, weights, without_length, predicted)
    plain = mean_estimate(influence)
    by_name = dict(zip(names, weights.tolist(), strict=True))
    value = float(predicted.mean())
    assert plain.stderr is not None
    return LengthControlled(
        form=MINIMAL if difficulties is None else NO_REGULARIZATION if gamed is None else V1,
        estimate=Estimate(
            value=value,
            stderr=plain.stderr,
            ci95=(max(0.0, value - 1.96 * plain.stderr), min(1.0, value + 1.96 * plain.stderr)),
            n=len(shares),
            num_clusters=len(shares),
        ),
        stderr_of_predictions=float(predicted.std(ddof=1) / math.sqrt(len(predicted))),
        length_weight=by_name["length"],
        difficulty_weight=by_name.get("difficulty", 0.0),
        model_weight=by_name["model"],
        strength=float(strength),
    )


def fit_logistic(x: np.ndarray, y: np.ndarray, w: np.ndarray, strength: float) -> np.ndarray:
    """Weights float64[k] that minimize `|b|_1 + strength * sum_i w_i CE(y_i, logistic(x_i b))`, y in [0, 1].

    By Newton steps of the smooth part, each with its L1 problem solved by coordinate descent, halved until the whole
    falls (a proximal Newton method; Lee, Sun and Saunders, 2014). The problem is convex and has a handful of weights.
    """
    weights = np.zeros(x.shape[1])
    best = _objective(x, y, w, strength, weights)
    for _ in range(_MAX_STEPS):
        q = _logistic(x @ weights)
        gradient = strength * (x.T @ (w * (q - y)))
        curvature = strength * (x.T * (w * q * (1 - q))) @ x
        curvature += 1e-12 * max(1.0, float(np.trace(curvature))) * np.eye(len(weights))
        step = _l1_step(weights, gradient, curvature)
        size = 1.0
        while size > 1e-10:
            value = _objective(x, y, w, strength, weights + size * step)
            if value <= best:
                break
            size /= 2
        else:
            return weights
        weights = weights + size * step
        done = best - value <= 1e-13 * max(1.0, abs(best)) and float(np.max(np.abs(step))) < 1e-6
        best = value
        if done:
            break
    return weights


def _l1_step(weights: np.ndarray, gradient: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """Step that minimizes `gradient d + d' curvature d / 2 + |weights + d|_1`."""
    step = np.zeros_like(weights)
    for _ in range(_MAX_STEPS):
        change = 0.0
        for j in range(len(weights)):
            slope = gradient[j] + curvature[j] @ step - curvature[j, j] * step[j]
            target = weights[j] - slope / curvature[j, j]
            new = math.copysign(max(abs(target) - 1 / curvature[j, j], 0.0), target) - weights[j]
            change = max(change, abs(new - step[j]))
            step[j] = new
        if change < 1e-12:
            break
    return step


def _objective(x: np.ndarray, y: np.ndarray, w: np.ndarray, strength: float, weights: np.ndarray) -> float:
    z = x @ weights
    return float(np.abs(weights).sum() + strength * np.sum(w * (np.logaddexp(0, z) - y * z)))


def _logistic(z: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -z))


def _best_strength(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    """The inverse penalty with the least cross-entropy on folds that were held out; the smallest of equal ones."""
    # dealt out from the last row on, as scikit-learn's GroupKFold deals groups of one size
    fold = (len(y) - 1 - np.arange(len(y))) % _NUM_FOLDS
    losses = np.zeros(len(_STRENGTHS))
    for number in range(_NUM_FOLDS):
        train, test = fold != number, fold == number
        for index, strength in enumerate(_STRENGTHS):
            q = np.clip(_logistic(x[test] @ fit_logistic(x[train], y[train], w[train], strength)), 1e-15, 1 - 1e-15)
            losses[index] -= np.mean(w[test] * (y[test] * np.log(q) + (1 - y[test]) * np.log(1 - q)))
    return float(_STRENGTHS[int(np.argmin(losses))])


def _influence(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, weights: np.ndarray, without_length: np.ndarray, predicted: np.ndarray
) -> np.ndarray:
    """What each annotation moves the win rate by, times n, about its mean: u_i of the formula at the top."""
    n = len(predicted)
    q = _logistic(x @ weights)
    gradient = (without_length.T @ (predicted * (1 - predicted))) / n
    curvature = (x.T * (w * q * (1 - q))) @ x / n
    scores = (w * (y - q))[-n:, None] * x[-n:]
    # difficulties that are all alike cannot be told from the model's weight, which the pseudo-inverse takes evenly
    return predicted + scores @ (np.linalg.pinv(curvature, hermitian=True) @ gradient)
