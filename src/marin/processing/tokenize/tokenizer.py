"""A tokenizer folder in Hugging Face format, as the rest of marin sees it.

Text is only text here: a document that spells `<|endoftext|>` is encoded as those characters, never as the special
token, so no document can end itself. Ids go to numpy at once. The digest covers what decides which ids a text gets
(the model, its merges, normalizing, splitting, decoding, added tokens) and which ids end and begin one, in a form that
does not change when a library rewrites the file: equal digests, equal stores. The price: only byte-level BPE is taken
(GPT-2, Llama 3, our own), since only there are the bytes of every token known exactly, which bits per byte needs.
"""

import hashlib
import json
import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, pre_tokenizers

from marin.processing.tokenize.encoder import EncoderChoice

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
MODEL_FILES = ("config.json", "generation_config.json")
SIDE_FILES = (CONFIG_FILE, "special_tokens_map.json", CHAT_TEMPLATE_FILE)
# Names of the two files of a vocabulary as GPT-2 published it, and as Hugging Face renamed them.
VOCABULARY_FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
GPT2_EOS_TOKEN = "<|endoftext|>"
GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")


def byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level BPE writes for each of the 256 bytes -> that byte.

    Printable Latin-1 characters stand for their own byte; the other bytes, in order, for U+0100 onwards (the scheme of
    GPT-2's encoder).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in sorted(printable)} | {chr(256 + i): byte for i, byte in enumerate(others)}


class NoEndOfTextError(ValueError):
    """A tokenizer that does not say which token ends a text; `special_tokens` are those it has."""

    def __init__(self, message: str, special_tokens: list[str]):
        super().__init__(message)
        self.special_tokens = special_tokens


class Tokenizer:
    """Text to ids and back. Make it with `load_tokenizer`."""

    vocab_size: int  # one more than the largest id
    eos_id: int  # the end-of-text token, which closes every document in a store
    bos_id: int | None
    adds_bos: bool  # whether those who made it put BOS before a text; a BOS that is merely named is not put there

    def __init__(self, hf: HfTokenizer, *, eos_token: str, bos_token: str | None, folder: Path | None):
        hf.no_padding()
        hf.no_truncation()
        hf.encode_special_tokens = True  # special tokens spelled in a text stay text
        self._hf = hf
        self._folder = folder
        self._has_file = folder is not None and (folder / TOKENIZER_FILE).is_file()
        self._description: dict[str, Any] = json.loads(hf.to_str())
        if self._description["model"]["type"] != "BPE" or not _is_byte_level(self._description):
            raise ValueError(
                f"the tokenizer at {folder} is of type {self._description['model']['type']} and not byte-level BPE; "
                "only that is supported, since the bytes of each token must be known"
            )
        added = {token["content"]: token["id"] for token in self._description["added_tokens"]}
        self._vocabulary: dict[str, int] = self._description["model"]["vocab"] | added
        if not self._vocabulary:
            raise ValueError(f"the tokenizer at {folder} has an empty vocabulary")
        self.vocab_size = max(self._vocabulary.values()) + 1
        self.eos_token = eos_token
        self.bos_token = bos_token
        self.eos_id = _token_id(self._vocabulary, eos_token, "eos_token", folder)
        self.bos_id = None if bos_token is None else _token_id(self._vocabulary, bos_token, "bos_token", folder)
        self.adds_bos = self._adds_bos()
        self._byte_lengths: np.ndarray | None = None

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, digest={self.digest[:12]!r}, folder={str(self._folder)!r})"

    @cached_property
    def digest(self) -> str:
        """sha256 of what decides the ids, eos_id and bos_id included; equal for equal tokenizers."""
        return _digest(self._description, eos_id=self.eos_id, bos_id=self.bos_id)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Text of each special token -> its id."""
        return {token["content"]: token["id"] for token in self._description["added_tokens"] if token["special"]}

    @property
    def chat_template(self) -> str | None:
        """The Jinja text of its folder that writes conversations; None where it has none."""
        return None if self._folder is None else chat_template(self._folder)

    @cached_property
    def encoders(self) -> EncoderChoice:
        """What encodes many texts at once; `encoders.best(sample)` is the fastest that is exact."""
        return EncoderChoice(self._hf, self._description)

    def _adds_bos(self) -> bool:
        """Whether the post-processor of tokenizer.json adds it, or tokenizer_config.json says add_bos_token.

        transformers 5 goes by the first alone, so add_bos_token=false takes away nothing; with its earlier Llama
        tokenizers the second decides.
        """
        if self.bos_id is None:
            return False
        settings = {} if self._folder is None else _read_json(self._folder / CONFIG_FILE)
        return bool(settings.get("add_bos_token")) or self._hf.encode("a").ids[:1] == [self.bos_id]

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text, int32 (n,); no special token is added or recognised."""
        return np.array(self._hf.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """`encode` of every text; the library spreads them over threads unless TOKENIZERS_PARALLELISM=false."""
        encodings = self._hf.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def decode(self, ids: np.ndarray | list[int]) -> str:
        """The text of ids. Special tokens are written out; bytes that are no UTF-8 become U+FFFD."""
        return self._hf.decode([int(i) for i in ids], skip_special_tokens=False)

    def token_id(self, token: str) -> int:
        """The id of one token by its text, as the vocabulary writes it. ValueError where there is no such token."""
        return _token_id(self._vocabulary, token, "token", self._folder)

    def token_byte_lengths(self) -> np.ndarray:
        """int32 (vocab_size,): how many UTF-8 bytes of text each token stands for; 0 for special tokens and unused ids.

        The lengths of a text's tokens sum to the text's UTF-8 bytes. The array is made once and is read-only.
        """
        if self._byte_lengths is None:
            self._byte_lengths = self._measure_bytes()
            self._byte_lengths.flags.writeable = False
        return self._byte_lengths

    def _measure_bytes(self) -> np.ndarray:
        alphabet = frozenset(byte_alphabet())
        lengths = np.zeros(self.vocab_size, np.int32)
        added = {token["id"]: token for token in self._description["added_tokens"]}
        for token, token_id in self._vocabulary.items():
            if token_id in added:
                lengths[token_id] = 0 if added[token_id]["special"] else len(token.encode())
            elif alphabet.issuperset(token):
                lengths[token_id] = len(token)  # one character a byte
            else:
                raise ValueError(f"token {token!r} (id {token_id}) of {self._folder} is not written in byte-level BPE")
        return lengths

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """What each id stands for in a text; of a special token the bytes of its name, of an unused id none."""
        alphabet = byte_alphabet()
        added = {token["id"] for token in self._description["added_tokens"]}
        found = [b""] * self.vocab_size
        for token, token_id in self._vocabulary.items():
            found[token_id] = token.encode() if token_id in added else bytes(alphabet[letter] for letter in token)
        return found

    def save(self, folder: str | Path) -> None:
        """Write a folder that `load_tokenizer` and transformers' AutoTokenizer read.

        Files that came with the tokenizer are copied as they are, its chat template among them, unless they name other
        end-of-text or begin-of-text tokens than it was loaded with: what is read back has the same digest.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        special = (self.eos_token, self.bos_token)
        if self._folder is not None and self._has_file and _special_tokens(self._folder) == special:
            for name in (TOKENIZER_FILE, *SIDE_FILES):
                if (self._folder / name).is_file():
                    shutil.copyfile(self._folder / name, target / name)
            return
        write_tokenizer_folder(target, self._hf.to_str(pretty=True), eos_token=self.eos_token, bos_token=self.bos_token)
        if self.chat_template is not None:
            (target / CHAT_TEMPLATE_FILE).write_text(self.chat_template, encoding="utf-8")


def write_tokenizer_folder(folder: Path, tokenizer_json: str, *, eos_token: str, bos_token: str | None = None) -> None:
    """The two files of a tokenizer folder: the text of tokenizer.json, and tokenizer_config.json made to go with it."""
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": bos_token,
        "clean_up_tokenization_spaces": False,
        "eos_token": eos_token,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / TOKENIZER_FILE).write_text(tokenizer_json, encoding="utf-8")
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_tokenizer(path: str | Path, *, eos_token: str | None = None, bos_token: str | None = None) -> Tokenizer:
    """The tokenizer in a folder with tokenizer.json and tokenizer_config.json, or in one tokenizer.json.

    `eos_token` and `bos_token` (their text) override tokenizer_config.json and are needed where there is none; in the
    folder of a model the first eos_token_id of its config.json, else generation_config.json, ends a text where
    tokenizer_config.json does not say what does. A folder without tokenizer.json may hold GPT-2's vocabulary files
    instead (encoder.json and vocab.bpe, or vocab.json and merges.txt): text is then split as GPT-2 does, and
    <|endoftext|> ends one unless another token is named.

    Raises FileNotFoundError where there is no tokenizer, ValueError where it is not byte-level BPE or has no
    end-of-text token.
    """
    path = Path(path)
    file = path / TOKENIZER_FILE if path.is_dir() else path
    if not file.is_file():
        for names in VOCABULARY_FILES:
            if all((path / name).is_file() for name in names):
                return _load_gpt2(path, *names, eos_token=eos_token, bos_token=bos_token)
        raise FileNotFoundError(
            f"no tokenizer at {path}: expected a folder with {TOKENIZER_FILE}, or that file itself, or a folder with "
            f"{' or '.join(' and '.join(names) for names in VOCABULARY_FILES)}"
        )
    try:
        hf = HfTokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{file} is not a tokenizer that the tokenizers library reads: {error}") from error
    configured_eos, configured_bos = _special_tokens(file.parent)
    eos_token = eos_token or configured_eos or _eos_of_model(file.parent, hf)
    if eos_token is None:
        special = [token.content for _, token in sorted(hf.get_added_tokens_decoder().items()) if token.special]
        copy = "" if os.access(file.parent, os.W_OK) else ", in a copy of the folder, for this one cannot be written"
        raise NoEndOfTextError(
            f"{file.parent} does not say which token ends a text. Write it into {file.parent / CONFIG_FILE}, like "
            f'{{"eos_token": "<|endoftext|>"}}{copy}, or give load_tokenizer eos_token=...; its special tokens are '
            f"{special}",
            special,
        )
    return Tokenizer(hf, eos_token=eos_token, bos_token=bos_token or configured_bos, folder=file.parent)


def _load_gpt2(
    folder: Path, vocabulary: str, merges: str, *, eos_token: str | None, bos_token: str | None
) -> Tokenizer:
    """A tokenizer from GPT-2's two files, with the token that ends a text and those in added_tokens.json as special."""
    config = _read_json(folder / CONFIG_FILE)
    if config.get("tokenizer_class", GPT2_CLASSES[0]) not in GPT2_CLASSES:
        raise ValueError(
            f"{folder} holds {vocabulary} and {merges} of a {config['tokenizer_class']}, which do not say how it "
            f"splits text. Save that tokenizer as {TOKENIZER_FILE} (transformers: AutoTokenizer.from_pretrained(...)"
            ".save_pretrained(...))."
        )
    try:
        hf = HfTokenizer(models.BPE.from_file(str(folder / vocabulary), str(folder / merges)))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{folder / vocabulary} and {merges} are no vocabulary of GPT-2's form: {error}") from error
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.decoder = decoders.ByteLevel()
    configured_eos, configured_bos = _special_tokens(folder)
    eos_token = eos_token or configured_eos or GPT2_EOS_TOKEN
    added = _read_json(folder / "added_tokens.json")
    hf.add_special_tokens(list(dict.fromkeys([eos_token, *sorted(added, key=added.__getitem__)])))
    wrong = {token: token_id for token, token_id in added.items() if hf.token_to_id(token) != token_id}
    if wrong:
        raise ValueError(
            f"{folder / 'added_tokens.json'} gives {wrong}; beside {vocabulary} those ids are not free or not the next"
        )
    return Tokenizer(hf, eos_token=eos_token, bos_token=bos_token or configured_bos, folder=folder)


def _read_json(file: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is no file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def chat_template(folder: str | Path) -> str | None:
    """The Jinja text with which a tokenizer folder writes conversations; None where it has none.

    It is a file of its own, or in tokenizer_config.json as older libraries wrote it.
    """
    file = Path(folder) / CHAT_TEMPLATE_FILE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = _read_json(Path(folder) / CONFIG_FILE).get("chat_template")
    if isinstance(template, list):  # several, by name
        template = next((each["template"] for each in template if each["name"] == "default"), None)
    return template


def _special_tokens(folder: Path) -> tuple[str | None, str | None]:
    """(eos_token, bos_token) as tokenizer_config.json has them; None where it has none, or is not there."""
    config = _read_json(folder / CONFIG_FILE)
    return _content(config.get("eos_token")), _content(config.get("bos_token"))


def _eos_of_model(folder: Path, hf: HfTokenizer) -> str | None:
    """The token that the model in a folder ends a text with; None where there is no model or it does not say."""
    for name in MODEL_FILES:
        found = _read_json(folder / name).get("eos_token_id")
        if isinstance(found, list):  # of several the first ends a text, the others a turn
            found = found[0] if found else None
        if found is not None:
            return hf.id_to_token(found)
    return None


def _content(token: str | dict[str, Any] | None) -> str | None:
    """tokenizer_config.json writes a token as text or as an object with its text."""
    return token["content"] if isinstance(token, dict) else token


def _token_id(vocabulary: dict[str, int], token: str, role: str, folder: Path | None) -> int:
    if token not in vocabulary:
        raise ValueError(f"{role} {token!r} is not in the vocabulary of the tokenizer at {folder}")
    return vocabulary[token]


def _is_byte_level(description: dict[str, Any]) -> bool:
    steps = description.get("pre_tokenizer") or {}
    return any(step.get("type") == "ByteLevel" for step in steps.get("pretokenizers", [steps]))


def _digest(description: dict[str, Any], *, eos_id: int, bos_id: int | None) -> str:
    """sha256 over the parts of tokenizer.json that decide ids, written the same whichever library version wrote them,
    and over the ids of the end-of-text and begin-of-text tokens, which stand in tokenizer_config.json or in neither.

    Left out: truncation and padding (never used), the post-processor (it only adds special tokens, which we do not
    ask for), settings that are off, those of offsets into the text (no id depends on them), those that a byte-level
    decoder ignores, and how a special token is found in a text (ours are never looked for).
    """
    model = {key: value for key, value in description["model"].items() if value not in (None, False, "")}
    model["merges"] = [merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges", [])]
    behaviour = {
        "model": model,
        "normalizer": _without_idle_settings(description.get("normalizer")),
        "pre_tokenizer": _without_idle_settings(description.get("pre_tokenizer")),
        "decoder": _without_idle_settings(description.get("decoder"), decodes=True),
        "added_tokens": sorted(map(_added_token, description.get("added_tokens", [])), key=lambda token: token["id"]),
        "eos_id": eos_id,
        "bos_id": bos_id,
    }
    return hashlib.sha256(json.dumps(behaviour, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_STEPS = ("pretokenizers", "normalizers", "decoders")  # where a Sequence lists its steps


def _without_idle_settings(part: Any, *, decodes: bool = False) -> Any:
    """A part of tokenizer.json as what it does: a sequence of one is that one, and settings without effect are gone."""
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Sequence":
        steps = [_without_idle_settings(step, decodes=decodes) for key in _STEPS for step in part.get(key, ())]
        return steps[0] if len(steps) == 1 else {"type": "Sequence", "steps": steps}
    if part.get("type") == "ByteLevel" and decodes:
        return {"type": "ByteLevel"}
    return {key: value for key, value in part.items() if key != "trim_offsets"}


def _added_token(token: dict[str, Any]) -> dict[str, Any]:
    return {key: token[key] for key in ("id", "content", "special")} if token["special"] else token
