"""The P(z) probe: how likely is the model to go on with the exact words of texts that are held against it?

For a document z = z_1 z_2 ... and a prefix of k tokens, the probability of its next n tokens, each drawn from the
model as it is (temperature 1, nothing cut off):

    P_k(z) = prod_{i = k+1 .. k+n} p(z_i | d, z_1, ..., z_{i-1})

with d what stands before a document in training. A text that is memorised can be drawn out with a short prefix, and one
that is merely predictable needs a long one, so P_k is reported by k: its mean and its largest over the documents, and
the mean of ln P_k, which does not vanish where P_k does. It is the probability that a single draw extracts the text in
the sense of Hayes et al., "Measuring memorization through probabilistic discoverable extraction" (2024).

Since every prefix begins where its document does, one pass over k + n tokens with the longest k gives all of them. The
price is that only documents of that length count, whatever the prefix.
"""

import difflib
import math

import jax
import numpy as np

from marin.data.store import TokenStore
from marin.distributed.mesh import everywhere
from marin.models import lm
from marin.training.callback_config import MemorizationConfig
from marin.training.callbacks import StepDone, is_due
from marin.training.run import Run

_ROWS = 16
"""Documents scored at one time."""


class Memorization:
    """Rows `memorization/prefix_K/mean_probability`, `max_probability`, `mean_log_probability`."""

    def __init__(self, config: MemorizationConfig, run: Run) -> None:
        self._config = config
        self._run = run
        model = run.config.model
        length = max(config.prefix_lengths) + config.continuation_length
        if length > model.seq_len:
            raise ValueError(
                f"the memorization callback reads {length} tokens (longest prefix and continuation), the model "
                f"{model.seq_len} at most (model.seq_len). Shorten prefix_lengths or continuation_length."
            )
        before = run.data.eos_id if run.data.document_prefix == "eos" else run.data.bos_id
        assert before is not None, "a store whose documents begin with BOS has one"
        self._targets = documents_of(_store(run, config.source), length, config.num_sequences)
        self._tokens = np.concatenate(
            [np.full((len(self._targets), 1), before, np.int32), self._targets[:, :-1]], axis=1
        )
        compute_dtype = run.config.trainer.compute_dtype
        self._score = jax.jit(
            lambda p, x, y: everywhere(lm.token_log_probs(model, p, x, y, compute_dtype=compute_dtype))
        )

    def __call__(self, done: StepDone) -> None:
        if not is_due(done, self._config.every):
            return
        with self._run.log.paused():
            log_probs = self._log_probs(self._run.model_params(done.state))
            row: dict[str, float | int] = {"memorization/documents": len(log_probs)}
            for length in self._config.prefix_lengths:
                # float64: a product of many probabilities is far below what float32 holds
                sums = log_probs[:, length : length + self._config.continuation_length].sum(axis=1)
                probabilities = np.exp(sums)
                name = f"memorization/prefix_{length}"
                row[f"{name}/mean_probability"] = math.fsum(probabilities) / len(probabilities)
                row[f"{name}/max_probability"] = float(probabilities.max())
                row[f"{name}/mean_log_probability"] = math.fsum(sums) / len(sums)
            self._run.log.log_row(done.step, row)

    def _log_probs(self, params: object) -> np.ndarray:
        """Of each token of each document: float64 (documents, tokens)."""
        parts = []
        for start in range(0, len(self._targets), _ROWS):
            tokens, targets = self._tokens[start : start + _ROWS], self._targets[start : start + _ROWS]
            missing = ((0, _ROWS - len(tokens)), (0, 0))  # one shape, one program
            scored = self._score(params, np.pad(tokens, missing), np.pad(targets, missing))
            parts.append(np.asarray(scored, np.float64)[: len(tokens)])
        return np.concatenate(parts)


def documents_of(store: TokenStore, length: int, count: int) -> np.ndarray:
    """The first `length` tokens of `count` documents spread evenly over those of `store` that are so long: int32.

    Fewer documents come back where there are fewer. ValueError where there is none.
    """
    offsets = np.asarray(store.document_offsets)
    starts = offsets[:-1][np.diff(offsets) >= length]
    if starts.size == 0:
        raise ValueError(
            f"no document of {store.path} has the {length} tokens that the memorization callback reads (longest prefix "
            "and continuation). Shorten prefix_lengths or continuation_length."
        )
    if count < starts.size:
        starts = starts[(2 * np.arange(count) + 1) * starts.size // (2 * count)]
    return store.gather(starts, length)


def _store(run: Run, name: str) -> TokenStore:
    sources = dict(zip(run.data.train.names, run.data.train.sources, strict=True)) | run.data.validation
    if name not in sources:
        near = difflib.get_close_matches(name, sources, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(
            f"the memorization callback takes its texts from '{name}', which is no training source or validation set; "
            f"there are {', '.join(sources)}{hint}"
        )
    return sources[name].store
