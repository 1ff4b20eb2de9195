"""Many texts to token ids at once: by the reference library, or by a faster one where that gives the same ids.

The `tokenizers` library is the oracle. `gigatoken` (extra `gigatoken`) is some fifty times as fast; it reads the same
tokenizer.json, but passes over settings that it does not know. So it is used only for tokenizers all of whose parts it
is known to have, and only after it gave the oracle's ids for awkward strings and for the first documents of each shard;
otherwise the oracle is used, and why is said. No id depends on the choice. The price of the check is a few milliseconds
of the slow library a shard.

Texts are UTF-8 in one buffer with offsets, as Arrow holds them, and ids come back likewise: no list of integers is ever
made.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer as HfTokenizer


@dataclass(frozen=True, eq=False)
class Utf8Texts:
    """Texts put end to end: text i is `data[offsets[i] : offsets[i + 1]]`, UTF-8."""

    data: np.ndarray  # uint8
    offsets: np.ndarray  # int64 (num_texts + 1,), rising, the first need not be 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes().decode("utf-8")

    @property
    def num_bytes(self) -> np.ndarray:
        """int64 (num_texts,): UTF-8 bytes of each."""
        return np.diff(self.offsets)

    def first(self, max_bytes: int) -> "Utf8Texts":
        """As many of the first texts as fit into `max_bytes`, or the beginning of the first one alone."""
        count = int(np.searchsorted(self.offsets, self.offsets[0] + max_bytes, side="right")) - 1
        if count > 0 or len(self) == 0:
            return Utf8Texts(self.data, self.offsets[: count + 1])
        start = int(self.offsets[0])
        beginning = self.data[start : start + max_bytes].tobytes().decode("utf-8", errors="ignore")
        return utf8_texts([beginning])


def utf8_texts(texts: Sequence[str]) -> Utf8Texts:
    """Python strings as one buffer. Raises UnicodeEncodeError for a lone surrogate."""
    encoded = [text.encode("utf-8") for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(each) for each in encoded], out=offsets[1:])
    return Utf8Texts(np.frombuffer(b"".join(encoded), np.uint8), offsets)


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Token ids put end to end: row i is `ids[offsets[i] : offsets[i + 1]]`."""

    ids: np.ndarray  # an integer dtype
    offsets: np.ndarray  # int64 (num_rows + 1,), from 0 on

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[np.ndarray]:
        bounds = self.offsets.tolist()
        return (self.ids[start:end] for start, end in zip(bounds, bounds[1:], strict=False))

    def equals(self, other: "TokenRows") -> bool:
        return np.array_equal(self.offsets, other.offsets) and np.array_equal(self.ids, other.ids)


class Encoder(Protocol):
    """Text to ids: no special token is added or recognised."""

    name: str  # of the library

    def encode(self, texts: Utf8Texts) -> TokenRows: ...


class HuggingFaceEncoder:
    """The reference.

    It takes some hundred bytes of memory a byte of text. So a long text is encoded piece by piece where it is certain
    that the tokenizer begins a new word anyway; where it is not, slowly and in one piece.
    """

    name = "tokenizers"

    def __init__(self, hf: HfTokenizer, description: dict[str, Any]):
        self._hf = hf
        self._can_cut = _splits_words(description) and not _added(description) and description["normalizer"] is None

    def encode(self, texts: Utf8Texts) -> TokenRows:
        rows = [self._encode_one(texts[index]) for index in range(len(texts))] if self._is_long(texts) else None
        if rows is None:
            rows = [ids for part in _parts(texts) for ids in self._encode_some(part)]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        return TokenRows(np.concatenate([np.empty(0, np.int32), *rows]), offsets)

    def _encode_some(self, texts: list[str]) -> list[np.ndarray]:
        encodings = self._hf.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def _is_long(self, texts: Utf8Texts) -> bool:
        return bool((texts.num_bytes > LONG_TEXT).any())

    def _encode_one(self, text: str) -> np.ndarray:
        pieces = cut_between_words(text, LONG_TEXT) if self._can_cut else [text]
        ids = [np.array(self._hf.encode(piece, add_special_tokens=False).ids, np.int32) for piece in pieces]
        return np.concatenate([np.empty(0, np.int32), *ids])


class GigatokenEncoder:
    """The fast one. Make it with `fast_encoder`, which checks that it is exact.

    It remembers every word that it has seen, so it is made anew when that has taken MAX_GROWTH of memory.
    """

    name = "gigatoken"

    def __init__(self, description: dict[str, Any]):
        ordinary = [token for token in description["added_tokens"] if not token["special"]]
        # a special token in a text is text
        self._json = json.dumps({**description, "added_tokens": ordinary}, ensure_ascii=False)
        self._load()

    def _load(self) -> None:
        from gigatoken.gigatoken_rs import load_hf_json

        self._backend = load_hf_json(self._json)
        self._resident = _resident_bytes()

    def encode(self, texts: Utf8Texts) -> TokenRows:
        import awkward

        if _resident_bytes() - self._resident > MAX_GROWTH:
            self._load()
        contents: Any = awkward.contents
        characters = contents.NumpyArray(texts.data, parameters={"__array__": "char"})
        offsets = awkward.index.Index64(np.ascontiguousarray(texts.offsets))
        strings = contents.ListOffsetArray(offsets, characters, parameters={"__array__": "string"})
        encoded: Any = self._backend.encode_batch(awkward.Array(strings), parallel=False).layout
        return TokenRows(np.asarray(encoded.content.data), np.asarray(encoded.offsets.data, np.int64))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which encoder was taken, and why not the fast one."""

    encoder: Encoder
    reason: str | None  # None: the fast one was taken


class EncoderChoice:
    """The encoders of one tokenizer: the oracle, and the fast one where it is usable."""

    def __init__(self, hf: HfTokenizer, description: dict[str, Any]):
        self._description = description
        self.oracle = HuggingFaceEncoder(hf, description)

    @cached_property
    def _fast(self) -> GigatokenEncoder | str:
        """The fast encoder, found exact on AWKWARD_TEXTS, or the reason why there is none."""
        reason = unsupported_by_gigatoken(self._description)
        if reason is not None:
            return reason
        try:
            encoder = GigatokenEncoder(self._description)
        except ImportError:
            return "gigatoken is not installed (pip install 'marin[gigatoken]')"
        except Exception as error:  # whatever the library raises: it does not take this tokenizer
            return f"gigatoken does not read the tokenizer: {str(error).splitlines()[0]}"
        return difference(encoder, self.oracle, utf8_texts(AWKWARD_TEXTS)) or encoder

    def best(self, sample: Utf8Texts) -> Choice:
        """The fast encoder where it gives the oracle's ids for `sample`, too, else the oracle."""
        if isinstance(self._fast, str):
            return Choice(encoder=self.oracle, reason=self._fast)
        reason = difference(self._fast, self.oracle, sample.first(MAX_SAMPLE))
        return Choice(encoder=self.oracle if reason else self._fast, reason=reason)


def difference(encoder: Encoder, oracle: Encoder, texts: Utf8Texts) -> str | None:
    """Where two encoders differ, in words; None where they do not."""
    theirs, ours = oracle.encode(texts), encoder.encode(texts)
    if ours.equals(theirs):
        return None
    index = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if not np.array_equal(a, b))
    return f"{encoder.name} encodes {texts[index][:40]!r} otherwise than {oracle.name}"


def unsupported_by_gigatoken(description: dict[str, Any]) -> str | None:
    """The part of a tokenizer.json that gigatoken is not known to have; None where it has all of them.

    It refuses some others itself, and passes over the rest: a second pre-tokenizer, tokens that are found only between
    spaces. Hence a list of what it has.
    """
    normalizer = description["normalizer"]
    if normalizer is not None and normalizer.get("type") != "NFC":
        return f"gigatoken is not known to have the normalizer {normalizer.get('type')}"
    if not _splits_words(description):
        return "gigatoken is not known to have this pre-tokenizer"
    model = description["model"]
    odd = [name for name in _ODD_MODEL_SETTINGS if model.get(name)]
    if odd:
        return f"gigatoken is not known to have the setting {odd[0]} of the model"
    for token in _added(description):
        odd = [name for name in ("single_word", "lstrip", "rstrip", "normalized") if token.get(name)]
        if odd:
            return f"gigatoken is not known to find the token {token['content']!r}, which is {odd[0]}"
    return None


def cut_between_words(text: str, size: int) -> Iterator[str]:
    """A text in pieces of about `size` characters, each beginning with a space between two ASCII letters.

    Every pattern in WORD_PATTERNS ends a word there whatever stands around, so pieces have the ids of the whole.
    """
    start = 0
    while len(text) - start > size:
        cut = _BETWEEN_WORDS.search(text, start + size)
        if cut is None:
            break
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def _parts(texts: Utf8Texts) -> Iterator[list[str]]:
    """Texts as strings, some of them at a time, so that what the library holds for them is bounded."""
    part: list[str] = []
    size = 0
    for index, num_bytes in enumerate(texts.num_bytes.tolist()):
        if part and size + num_bytes > LONG_TEXT:
            yield part
            part, size = [], 0
        part.append(texts[index])
        size += num_bytes
    if part:
        yield part


def _splits_words(description: dict[str, Any]) -> bool:
    """Whether the pre-tokenizer is byte-level with one of WORD_PATTERNS, and nothing else."""
    step = description["pre_tokenizer"] or {}
    steps = step["pretokenizers"] if step.get("type") == "Sequence" else [step]
    *splits, last = steps
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return False
    if not splits:
        return last.get("use_regex", True)
    if len(splits) > 1 or last.get("use_regex", True) or splits[0].get("type") != "Split":
        return False
    how = splits[0].get("behavior"), bool(splits[0].get("invert"))
    return how in (("Removed", True), ("Isolated", False)) and splits[0]["pattern"].get("Regex") in WORD_PATTERNS


def _added(description: dict[str, Any]) -> list[dict[str, Any]]:
    """Tokens that are looked for in texts."""
    return [token for token in description["added_tokens"] if not token["special"]]


def _resident_bytes() -> int:
    """Memory that this process holds; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


LONG_TEXT = 1 << 20  # UTF-8 bytes; what is longer the oracle gets in pieces
MAX_SAMPLE = 1 << 15  # UTF-8 bytes of the first documents that both encode
MAX_GROWTH = 1 << 29  # bytes of memory that the fast encoder may take for what it has seen
_BETWEEN_WORDS = re.compile(r"(?<=[A-Za-z]) (?=[A-Za-z])")
_ODD_MODEL_SETTINGS = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")

# Regular expressions that split text into words, as tokenizer.json files spell them.
GPT2_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_AFTER_NUMBERS = r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
_WORDS = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"""
WORD_PATTERNS = (
    GPT2_PATTERN,
    _WORDS + r"\p{N}{1,3}" + _AFTER_NUMBERS,  # GPT-4, Llama 3, OLMo 2
    _WORDS + r"\p{N}" + _AFTER_NUMBERS,  # Qwen 2 and 3
)

AWKWARD_TEXTS = (
    "",
    " ",
    "  \n\n \t\r\n x  ",
    "Hello world, it's WE'LL they'RE 'S 'twas don’t I'M y'all'd",
    "x = [1, 22, 333, 4444, 1234567890]; 3.14e-10 0xFF ½ ² ٣ 四",
    "naïve café e\u0301 n\u0303o \ufb01 \u212b Straße İstanbul ǅ ß",
    "東京都に住んでいます。안녕하세요 สวัสดี नमस्ते שלום مرحبا",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 \U0001f1e9\U0001f1ea \u200b\u200d\ufeff\u2028\u2029\x85\xa0\u3000",
    "\x00\x01\x7f\ufffd\U0010ffff\ue000",
    "<|endoftext|> <|im_start|>user\n[INST] <s> </s> <|end",
    "\tif (a&&b){\r\n\t\treturn  -1;\r\n\t}\r\n\r\n\n",
    "########## ---------- ..........!!!??? _____",
    "https://example.org/a/b?c=d&e=%20f#g user@example.org C:\\path\\to",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 8,
    "a b  c   d    e     f      g       \n        h\n\n\n\n    i",
    "iIıİ ſtreet K\u212a µ\u03bc Σσς \u01c5\u0345",
)
