"""The n-grams of the texts of evaluation items, each with the texts that have it: what documents are looked up in.

A question and its answer are texts of their own, so that who has one of them has all of it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from marin.io.atomic import open_atomic
from marin.processing.decontaminate.config import EvaluationSet
from marin.processing.decontaminate.evaluation_items import items_of
from marin.processing.kernels.arrow_text import text_buffer
from marin.processing.kernels.ngrams import HashSet, hash_ngrams, ngram_hash
from marin.processing.kernels.normalized_words import words_of
from marin.processing.paragraphs import paragraph_offsets

_ITEMS_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class NgramIndex:
    """Items, their texts, and the n-grams of those, all numbered."""

    set_names: list[str]
    item_sets: np.ndarray  # int64 (num_items,): place in set_names
    item_ids: list[str]
    text_items: np.ndarray  # int64 (num_texts,): the item of each text
    text_sizes: np.ndarray  # int64 (num_texts,): different n-grams of each
    hashes: np.ndarray  # uint64 (num_ngrams,)
    offsets: np.ndarray  # int64 (num_ngrams + 1,): n-gram i is in texts[offsets[i]:offsets[i + 1]]
    texts: np.ndarray  # int64

    def texts_with(self, ngram: int) -> np.ndarray:
        """The numbers of the texts that have an n-gram."""
        return self.texts[self.offsets[ngram] : self.offsets[ngram + 1]]

    def name(self, item: int) -> str:
        """The set and the item."""
        return f"{self.set_names[self.item_sets[item]]}/{self.item_ids[item]}"

    def without(self, ngrams: np.ndarray) -> "NgramIndex":
        """The index without n-grams, bool (num_ngrams,), which do not count towards the sizes of texts either."""
        counts = np.diff(self.offsets)
        kept = np.repeat(~ngrams, counts)
        texts = self.texts[kept]
        return NgramIndex(
            set_names=self.set_names,
            item_sets=self.item_sets,
            item_ids=self.item_ids,
            text_items=self.text_items,
            text_sizes=np.bincount(texts, minlength=len(self.text_items)),
            hashes=self.hashes[~ngrams],
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts[~ngrams])]),
            texts=texts,
        )

    def _arrays(self) -> dict[str, np.ndarray]:
        return {
            "set_names": np.array(self.set_names),
            "item_sets": self.item_sets,
            "item_ids": np.array(self.item_ids),
            "text_items": self.text_items,
            "text_sizes": self.text_sizes,
            "hashes": self.hashes,
            "offsets": self.offsets,
            "texts": self.texts,
        }

    def digest(self) -> str:
        """32 hex digits of all that is in it."""
        digest = hashlib.sha256()
        for name, array in self._arrays().items():
            digest.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
        return digest.hexdigest()[:32]

    def save(self, folder: Path) -> Path:
        """Write to one .npz file, which is named by what is in it."""
        path = folder / f"ngrams-{self.digest()}.npz"
        with open_atomic(path) as file:
            np.savez(file, allow_pickle=False, **self._arrays())
        return path


@lru_cache(maxsize=2)
def load_index(path: str) -> tuple[NgramIndex, HashSet]:
    """An index that was saved, and the set of its hashes; kept, for a process does many files.

    Nothing stale is kept so: another index has another name.
    """
    with np.load(path) as file:
        values = {name: file[name] for name in file.files}
    names, ids = values.pop("set_names").tolist(), values.pop("item_ids").tolist()
    index = NgramIndex(set_names=names, item_ids=ids, **values)
    return index, HashSet.of(index.hashes)


def index_items(sets: Sequence[EvaluationSet], ngram: int, min_words: int) -> NgramIndex:
    """The n-grams of all items of these sets."""
    item_sets: list[int] = []
    item_ids: list[str] = []
    text_items: list[int] = []
    hashes, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for set_number, evaluation in enumerate(sets):
        texts: list[str] = []
        num_before = len(text_items)
        is_prompt: list[bool] = []
        for item in items_of(evaluation):
            texts += item.prompts + item.others
            text_items += [len(item_ids)] * (len(item.prompts) + len(item.others))
            is_prompt += [True] * len(item.prompts) + [False] * len(item.others)
            item_sets.append(set_number)
            item_ids.append(item.id)
        for part in _slices(len(texts)):
            found, text = _ngrams(texts[part], np.array(is_prompt[part], np.bool_), ngram, min_words)
            hashes.append(found)
            owners.append(num_before + part.start + text)
    pairs = np.stack([np.concatenate(hashes), np.concatenate(owners).astype(np.uint64)])
    order = np.lexsort(pairs[::-1])
    pairs = pairs[:, order]
    different = np.ones(pairs.shape[1], np.bool_)
    different[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)
    pairs = pairs[:, different]
    distinct, first = np.unique(pairs[0], return_index=True)
    of_ngrams = pairs[1].astype(np.int64)
    return NgramIndex(
        set_names=[evaluation.name for evaluation in sets],
        item_sets=np.array(item_sets, np.int64),
        item_ids=item_ids,
        text_items=np.array(text_items, np.int64),
        text_sizes=np.bincount(of_ngrams, minlength=len(text_items)),
        hashes=distinct,
        offsets=np.append(first, len(of_ngrams)).astype(np.int64),
        texts=of_ngrams,
    )


def _slices(count: int) -> Iterator[slice]:
    for first in range(0, count, _ITEMS_AT_ONCE):
        yield slice(first, first + _ITEMS_AT_ONCE)


def _ngrams(texts: list[str], is_prompt: np.ndarray, n: int, min_words: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, number of the text) of every n-gram with a letter, and of short paragraphs of prompts as a whole."""
    data, text_offsets = text_buffer(pa.array(texts, pa.large_string()))
    bounds = paragraph_offsets(data, text_offsets)
    text_of = np.searchsorted(text_offsets, bounds[:-1], side="right") - 1
    words = words_of(data, bounds)
    hashes, ngram_offsets = hash_ngrams(words.hashes, words.offsets, n)
    paragraph = np.repeat(np.arange(len(bounds) - 1), np.diff(ngram_offsets))
    first_word = words.offsets[paragraph] + np.arange(len(hashes)) - ngram_offsets[paragraph]
    with_letter = np.concatenate([np.zeros(1, np.int64), np.cumsum(words.hashes & np.uint64(1), dtype=np.int64)])
    has_letter = with_letter[first_word + n] > with_letter[first_word]

    lengths = np.diff(words.offsets)
    short = np.flatnonzero((lengths >= min_words) & (lengths < n) & is_prompt[text_of])
    short = short[with_letter[words.offsets[short + 1]] > with_letter[words.offsets[short]]]
    whole = [ngram_hash(words.hashes[words.offsets[i] : words.offsets[i + 1]].tolist()) for i in short]
    return (
        np.concatenate([hashes[has_letter], np.array(whole, np.uint64)]),
        np.concatenate([text_of[paragraph[has_letter]], text_of[short]]),
    )
