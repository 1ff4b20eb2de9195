"""Train a byte-level BPE tokenizer on documents and write it as a Hugging Face tokenizer folder.

The trainer is the `tokenizers` library's; text is split by GPT-2's pattern, and all 256 bytes are in the vocabulary, so
every text can be encoded and decoded exactly. The result depends only on the documents' text and the config: training
twice gives equal files. The price of using the library is its speed, some MB of text a second.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from marin.io.atomic import write_text
from marin.io.files import local_folder
from marin.processing.document import SHOWN_ROWS, BadInputError
from marin.processing.tokenize.config import TrainBpeConfig
from marin.processing.tokenize.inputs import plan_inputs
from marin.processing.tokenize.tokenizer import load_tokenizer, write_tokenizer_folder

if TYPE_CHECKING:
    from marin.processing.formats.record import BadRecord


def train_bpe(config: TrainBpeConfig) -> dict[str, Any]:
    """Train and write the tokenizer; returns what is written to training.json.

    Raises ValueError for an empty corpus, for more bad rows than `max_bad`, and where the text is too small to fill
    the vocabulary (a vocabulary of another size than asked for would surprise later).
    """
    output = local_folder(config.output_path)
    tokenizer = HfTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[config.eos_token, *config.extra_special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = _Corpus(config)
    _interruptible(lambda: tokenizer.train_from_iterator(corpus.texts(), trainer=trainer))
    corpus.check()
    found = tokenizer.get_vocab_size()
    if found != config.vocab_size:
        raise ValueError(
            f"{corpus.text_bytes:,} bytes of text under {config.input_path} give a vocabulary of {found} tokens, "
            f"{config.vocab_size} were asked for (pairs that occur {config.min_frequency} times or more are used up). "
            f"Use vocab_size={found}, more text, or a lower min_frequency (--min-frequency)."
        )
    output.mkdir(parents=True, exist_ok=True)
    write_tokenizer_folder(output, tokenizer.to_str(pretty=True) + "\n", eos_token=config.eos_token)
    summary = {
        "format_version": "1.0",
        "vocab_size": found,
        "tokenizer_digest": load_tokenizer(output).digest,
        "documents": corpus.documents,
        "text_bytes": corpus.text_bytes,
        "bad_by_kind": dict(sorted(corpus.bad.items())),
    }
    write_text(output / "training.json", json.dumps(summary, indent=1, sort_keys=True) + "\n")
    print(
        f"train_bpe: {found:,} tokens from {corpus.documents:,} documents, {corpus.text_bytes / 1e6:.1f} MB of text",
        file=sys.stderr,
        flush=True,
    )
    return summary


def _interruptible(work: Callable[[], None]) -> None:
    """Do the work in a thread, so that Ctrl-C ends the wait for it, where the library would go on for minutes.

    The thread goes with the process; nothing is written before it has ended.
    """
    ended: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            ended.set_exception(error)
        else:
            ended.set_result(None)

    Thread(target=run, name="train-bpe", daemon=True).start()
    ended.result()


class _Corpus:
    """The texts to train on, counted as they pass."""

    def __init__(self, config: TrainBpeConfig):
        self._config = config
        self._splits = plan_inputs(config.input_path, format=config.format)
        self.documents = 0
        self.text_bytes = 0
        self.bad: Counter[str] = Counter()
        self._first_bad: list[str] = []  # where they are

    def texts(self) -> Iterator[str]:
        from marin.processing.formats.reading import read_split

        limit = self._config.max_bytes
        for split in self._splits:
            for batch in read_split(split, columns=("id", "text", "source"), on_bad=self._on_bad):
                for text in batch.column("text").to_pylist():
                    if limit is not None and self.text_bytes >= limit:
                        return
                    if text:
                        self.documents += 1
                        self.text_bytes += len(text.encode("utf-8"))
                        yield text

    def _on_bad(self, record: "BadRecord") -> None:
        self.bad[record.kind] += 1
        if len(self._first_bad) < SHOWN_ROWS:
            file, _, line = record.position.rpartition(":")
            self._first_bad.append(f"{file} line {line} ({record.reason})")

    def check(self) -> None:
        bad = self.bad.total()
        if bad > self._config.max_bad * (bad + self.documents):
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.bad.items()))
            raise BadInputError(
                f"{bad:,} of {bad + self.documents:,} rows under {self._config.input_path} are no documents, more than "
                f"max_bad={self._config.max_bad:.2%}: {kinds}. The first: {'; '.join(self._first_bad)}. "
                "Mend the input, or raise max_bad."
            )
        if self.documents == 0:
            raise ValueError(
                f"no documents to train a tokenizer on under {self._config.input_path}: its "
                f"{len({split.path for split in self._splits})} files hold none with text"
            )
