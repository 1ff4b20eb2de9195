"""Completions of fixed prompts while a model learns, for a person to read.

One row a step in samples.jsonl: {"step": 500, "samples": [{"prompt": ..., "completion": ..., "num_tokens": ...}, ...]}.
The draws have a fixed seed, so a resumed run writes the same text again. They prove nothing, and show much: repetition,
lost syntax, a wrong tokenizer.
"""

from typing import Any

import numpy as np

from marin.evaluation.scoring import prefix_id
from marin.inference.generate import generate
from marin.training.callback_config import SamplesConfig
from marin.training.callbacks import StepDone, is_due
from marin.training.run import Run

SAMPLES_FILE = "samples.jsonl"


class Samples:
    """Writes completions to samples.jsonl, and hands them to the trackers as the text `samples/0` and so on."""

    def __init__(self, config: SamplesConfig, run: Run) -> None:
        self._config = config
        self._run = run
        self._model = run.config.model
        self._tokenizer = run.tokenizer
        self._compute_dtype = run.config.trainer.compute_dtype
        first = prefix_id(self._tokenizer, _known(run.data.document_prefix))
        self._prompts = [
            [int(token) for token in np.concatenate([[first], tokens])]
            for tokens in self._tokenizer.encode_batch(list(config.prompts))
        ]
        longest = max(map(len, self._prompts))
        if longest >= self._model.seq_len:
            raise ValueError(
                f"the longest prompt of the samples callback has {longest} tokens with what stands before a document; "
                f"the model reads {self._model.seq_len}, of which at least one must be left. Shorten it."
            )

    def __call__(self, done: StepDone) -> None:
        if not is_due(done, self._config.every):
            return
        with self._run.log.paused():
            stop_ids = {self._tokenizer.eos_id}
            if self._run.data.chat is not None:
                stop_ids.add(self._run.data.chat.stop_id)
            completions = generate(
                self._model,
                self._run.model_params(done.state),
                self._prompts,
                max_new_tokens=self._config.max_new_tokens,
                stop_ids=stop_ids,
                temperature=self._config.temperature,
                top_p=self._config.top_p,
                seed=self._config.seed,
                compute_dtype=self._compute_dtype,
            )
            samples = [
                {"prompt": prompt, "completion": self._tokenizer.decode(tokens), "num_tokens": len(tokens)}
                for prompt, tokens in zip(self._config.prompts, completions, strict=True)
            ]
            self._run.log_json(SAMPLES_FILE, done.step, {"samples": samples})
            texts = {f"samples/{i}": f"{s['prompt']}{s['completion']}" for i, s in enumerate(samples)}
            self._run.log.show(done.step, texts)


def _known(document_prefix: str) -> Any:
    """A store says 'eos' or 'bos'; its type is str."""
    return document_prefix
