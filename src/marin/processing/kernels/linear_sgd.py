"""Stochastic gradient descent of fastText's classifier: the mean of a text's rows, a linear layer, softmax.

    hidden = mean of rows[f] over the features f of the text
    logits = outputs @ hidden
    loss   = -log softmax(logits)[label]

One text after the other in a given order, the learning rate falling linearly to zero (Joulin et al. 2016). One thread,
so that equal seeds give equal bits; fastText's own threads race. `sgd_epoch_reference` is the definition.
"""

import math

import numpy as np

from marin.processing.kernels.compiled import compiled
from marin.processing.kernels.ngram_features import make_scratch, room_for_rows, text_rows
from marin.processing.kernels.ngram_features_reference import feature_rows
from marin.processing.kernels.vocabulary import Vocabulary


def sgd_epoch_reference(
    data: np.ndarray,
    offsets: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    vocabulary: Vocabulary,
    rows: np.ndarray,
    outputs: np.ndarray,
    *,
    first_rate: float,
    last_rate: float,
) -> float:
    """What `sgd_epoch` does, in numpy."""
    loss = 0.0
    for step, text in enumerate(order.tolist()):
        ids = feature_rows(data[offsets[text] : offsets[text + 1]].tobytes(), vocabulary)
        if not ids:
            continue
        rate = first_rate + (last_rate - first_rate) * step / len(order)
        hidden = rows[ids].mean(axis=0)
        logits = outputs @ hidden
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        loss -= math.log(max(float(probabilities[labels[text]]), 1e-12))
        errors = -rate * probabilities
        errors[labels[text]] += rate
        gradient = errors @ outputs / len(ids)
        outputs += np.outer(errors, hidden)
        np.add.at(rows, ids, gradient)
    return loss / len(order)


@compiled
def _sgd_epoch(data, offsets, labels, order, vocabulary, rows, outputs, first_rate, last_rate, ids):
    num_labels, width = outputs.shape
    scratch = make_scratch(vocabulary)
    hidden, gradient = np.empty(width, np.float32), np.empty(width, np.float32)
    probabilities = np.empty(num_labels, np.float64)
    loss = 0.0
    for step in range(order.size):
        text = order[step]
        num_ids = text_rows(data, offsets[text], offsets[text + 1], vocabulary, scratch, ids)
        if num_ids == 0:
            continue
        rate = first_rate + (last_rate - first_rate) * step / order.size
        share = np.float32(1.0 / num_ids)
        hidden[:] = 0
        for index in range(num_ids):
            row = ids[index]
            for column in range(width):
                hidden[column] += rows[row, column]
        for column in range(width):
            hidden[column] *= share
        largest = -np.inf
        for label in range(num_labels):
            logit = 0.0
            for column in range(width):
                logit += outputs[label, column] * hidden[column]
            probabilities[label] = logit
            largest = max(largest, logit)
        normalizer = 0.0
        for label in range(num_labels):
            probabilities[label] = math.exp(probabilities[label] - largest)
            normalizer += probabilities[label]
        gradient[:] = 0
        for label in range(num_labels):
            probability = probabilities[label] / normalizer
            is_target = label == labels[text]
            if is_target:
                loss -= math.log(max(probability, 1e-12))
            error = np.float32(rate * ((1.0 if is_target else 0.0) - probability))
            for column in range(width):
                gradient[column] += error * outputs[label, column]
                outputs[label, column] += error * hidden[column]
        for column in range(width):
            gradient[column] *= share
        for index in range(num_ids):
            row = ids[index]
            for column in range(width):
                rows[row, column] += gradient[column]
    return loss / order.size


def sgd_epoch(
    data: np.ndarray,
    offsets: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    vocabulary: Vocabulary,
    rows: np.ndarray,
    outputs: np.ndarray,
    *,
    first_rate: float,
    last_rate: float,
) -> float:
    """One pass over the texts in `order`; changes `rows` and `outputs` in place and returns the mean loss, in nats.

    `data` is UTF-8 (uint8), text i is `data[offsets[i] : offsets[i + 1]]` with label `labels[i]`; `rows` is float32
    (num_rows, width), `outputs` float32 (num_labels, width). Texts without any feature are passed over.
    """
    ids = np.empty(room_for_rows(data, offsets, vocabulary), np.int32)
    return _sgd_epoch(data, offsets, labels, order, vocabulary, rows, outputs, first_rate, last_rate, ids)
