"""Whether an exported folder computes what the checkpoint computes, found out from its files.

What can be compared exactly is: the tokenizer's files and every field of config.json. For the weights, the folder is
read back by `marin.export.reference`, which shares no code with the export, and both give logits for a
probe: text, and random ids, since a swapped pair of rarely used rows would not show on text. A layout error on square
matrices loads everywhere without a word and costs a few nats; here it costs one forward pass to find.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from tokenizers import Tokenizer as HfTokenizer

from marin.data.store import ChatInfo
from marin.export.config import MIN_PROBE_LENGTH
from marin.export.hf import GENERATION_FILE, INDEX_FILE, config_from_hf, describe_hf, weight_files
from marin.export.hf_folder import CONFIG_FILE
from marin.export.reference import reference_logits
from marin.io.hashing import sha256_file
from marin.models.config import LmConfig
from marin.models.lm import logits
from marin.processing.tokenize.tokenizer import (
    CHAT_TEMPLATE_FILE,
    SIDE_FILES,
    TOKENIZER_FILE,
    Tokenizer,
    load_tokenizer,
)

PARITY_FILE = "parity.json"
TOLERANCE = 1e-4
_FILES = (CONFIG_FILE, GENERATION_FILE, INDEX_FILE, TOKENIZER_FILE, *SIDE_FILES)

# Numbers, spaces, case, punctuation, other scripts, combining marks, emoji, code, a special token spelled out.
PROBE_TEXTS = (
    "The quick brown fox jumps over the lazy dog. It's 3.14159, isn't it?\n",
    "  leading, trailing  and   repeated spaces\t\ttabs\r\n\nnew lines ",
    "def add(a: int, b: int = 10_000) -> int:\n    return a + b  # sum\n",
    "Ünïcödé façade, naïve cafe\u0301; Ελληνικά, Русский, العربية, हिन्दी, 日本語, 한국어",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 \u200b\ufeff \u00a0 end",
    "A text may spell <|endoftext|> or <s> without meaning it.",
    "",
)


class ExportMismatch(Exception):
    """An export that does not compute what its checkpoint does; `figures` holds what was compared."""

    def __init__(self, message: str, figures: Mapping[str, Any]):
        super().__init__(message)
        self.figures = dict(figures)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What was compared and found; written to parity.json."""

    passed: bool
    """True: an export that did not pass is not published."""
    max_abs_diff: float
    """Largest difference between two logits, in float32."""
    mean_abs_diff: float
    """Mean difference between two logits."""
    max_abs_logit: float
    """Largest logit, for scale."""
    tolerance: float
    """What max_abs_diff had to stay within."""
    num_positions: int
    """Positions of the probe: each a row of logits."""
    num_argmax_differing: int
    """Positions whose most probable token differs."""
    probe_sha256: str
    """Hash of the probe's ids, little-endian int32, row by row."""
    num_tokenizer_texts: int
    """Texts that both tokenizers encoded to equal ids and decoded to equal text."""
    tokenizer_digest: str
    """Digest of the tokenizer that was exported."""
    eos_id: int
    """The token that ends a text, in training and in every exported file."""
    bos_id: int | None
    """The token that begins a text; None: the tokenizer has none."""
    sha256: dict[str, str]
    """File name -> hash of each file that was verified; a reader can tell whether they still are the same."""
    versions: dict[str, str]
    """Of marin and of the libraries that computed this."""


def probe_tokens(
    tokenizer: Tokenizer, vocab_size: int, length: int, num_random_rows: int = 2, seed: int = 0
) -> Int[np.ndarray, "batch {length}"]:
    """A row of encoded probe text (repeated to fill it) and rows of random ids from the whole vocabulary."""
    text = np.concatenate([tokenizer.encode(text) for text in PROBE_TEXTS])
    random_rows = np.random.default_rng(seed).integers(0, vocab_size, (num_random_rows, length))
    return np.concatenate([np.resize(text, (1, length)), random_rows]).astype(np.int32)


def verify_export(
    folder: str | Path,
    *,
    config: LmConfig,
    params: Any,
    vocab_size: int,
    tokenizer_path: str | Path,
    probe_length: int = 256,
    tolerance: float = TOLERANCE,
    chat: ChatInfo | None = None,
) -> Parity:
    """Compare the files in `folder` with the checkpoint they were made from, and write parity.json there.

    `config` and `params` are the checkpoint's own; `tokenizer_path` is the tokenizer it was trained with,
    `chat` how it was spoken to. The probe
    has `probe_length` tokens a row, or the model's seq_len if that is less.

    Raises:
        ExportMismatch: a logit differs by more than `tolerance` in float32, a most probable token differs, a field of
            config.json or generation_config.json is not what the export writes for `config`, or the tokenizers are not
            the same. Nothing is written then.
        ValueError: `probe_length` is less than 16.
    """
    if probe_length < MIN_PROBE_LENGTH:
        raise ValueError(f"probe_length={probe_length} must be at least {MIN_PROBE_LENGTH} to tell positions apart")
    folder = Path(folder)
    tokenizer = load_tokenizer(tokenizer_path)
    num_texts = _compare_tokenizers(tokenizer, Path(tokenizer_path), folder, chat)
    _compare_descriptions(config, vocab_size, tokenizer, folder, chat)
    probe = probe_tokens(tokenizer, vocab_size, min(probe_length, config.seq_len))
    with jax.default_matmul_precision("highest"):
        expected = np.asarray(jax.jit(logits, static_argnums=0)(config, params, probe))[..., :vocab_size]
    found = reference_logits(folder, probe)
    figures = _compare(expected, found, tolerance)
    files = [*(name for name in _FILES if (folder / name).is_file()), *weight_files(folder)]
    parity = Parity(
        **figures,
        probe_sha256=hashlib.sha256(probe.astype("<i4").tobytes()).hexdigest(),
        num_tokenizer_texts=num_texts,
        tokenizer_digest=tokenizer.digest,
        eos_id=tokenizer.eos_id,
        bos_id=tokenizer.bos_id,
        sha256={name: sha256_file(folder / name)[1] for name in files},
        versions={name: _version(name) for name in ("marin", "jax", "numpy", "safetensors", "tokenizers")},
    )
    if not parity.passed:
        where = np.unravel_index(np.nanargmax(np.abs(expected - found)), found.shape) if found.size else ()
        raise ExportMismatch(
            f"the export of {type(config).__name__} does not compute what its checkpoint does: on a probe of "
            f"{parity.num_positions} positions the logits differ by up to {parity.max_abs_diff:.3g} (allowed "
            f"{tolerance:g}; at row, position, token {tuple(int(i) for i in where)}) and the most probable token "
            f"differs at {parity.num_argmax_differing}. Nothing was published. The names and layout of its weights "
            f"are in marin.export; a square matrix that is (or is not) transposed is the usual cause",
            asdict(parity),
        )
    (folder / PARITY_FILE).write_text(json.dumps(asdict(parity), indent=2) + "\n", encoding="utf-8")
    return parity


def _compare(
    expected: Float[np.ndarray, "batch seq vocab"], found: Float[np.ndarray, "batch seq vocab"], tolerance: float
) -> dict[str, Any]:
    if expected.shape != found.shape:
        figures = {"shape_of_checkpoint": list(expected.shape), "shape_of_export": list(found.shape)}
        raise ExportMismatch(f"the export gives logits of shape {found.shape}, not {expected.shape}", figures)
    difference = np.abs(expected - found)
    # NaN is never within a tolerance
    largest = float(difference.max()) if np.isfinite(difference).all() else float("inf")
    num_differing = int((expected.argmax(-1) != found.argmax(-1)).sum())
    return {
        "passed": largest <= tolerance and num_differing == 0,
        "max_abs_diff": largest,
        "mean_abs_diff": float(difference.mean()),
        "max_abs_logit": float(np.abs(expected).max()),
        "tolerance": tolerance,
        "num_positions": int(np.prod(expected.shape[:2])),
        "num_argmax_differing": num_differing,
    }


def _compare_descriptions(
    config: LmConfig, vocab_size: int, tokenizer: Tokenizer, folder: Path, chat: ChatInfo | None
) -> None:
    """Raise ExportMismatch unless each JSON file is, field by field, what describes this model and reads back as it."""
    expected = describe_hf(config, vocab_size, tokenizer, chat)
    for name, fields in expected.items():
        if not (folder / name).is_file():
            raise ExportMismatch(f"the export has no {name}. Nothing was published", {"missing": name})
        written = json.loads((folder / name).read_text(encoding="utf-8"))
        _compare_fields(name, fields, written)
    # compared as described: head_dim=None and the width that it stands for are one model
    read = config_from_hf(json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")))
    _compare_fields(CONFIG_FILE, expected[CONFIG_FILE], describe_hf(read, vocab_size, tokenizer)[CONFIG_FILE])


def _compare_fields(name: str, expected: Mapping[str, Any], written: Mapping[str, Any]) -> None:
    def shown(fields: Mapping[str, Any], field: str) -> str:
        return json.dumps(fields[field], sort_keys=True) if field in fields else "absent"

    differing = [field for field in sorted({**expected, **written}) if shown(expected, field) != shown(written, field)]
    if differing:
        what = "; ".join(
            f"{field} is {shown(written, field)}, expected {shown(expected, field)}" for field in differing
        )
        raise ExportMismatch(
            f"{name} of the export does not describe the model of the checkpoint: {what}. Nothing was published",
            {"file": name, "fields": differing},
        )


def _compare_tokenizers(tokenizer: Tokenizer, source: Path, folder: Path, chat: ChatInfo | None) -> int:
    """Number of probe texts on which the exported files give the ids and the text that `tokenizer` gives.

    Raises ExportMismatch where they do not, or where digest, special ids or files differ: most ids are in no probe
    text.
    """
    try:
        found = load_tokenizer(folder)
    except (FileNotFoundError, ValueError) as error:
        raise ExportMismatch(f"the exported tokenizer cannot be read: {error}. Nothing was published", {}) from error
    for name in ("eos_id", "bos_id", "digest"):  # the digest covers all, the others say more
        ours, theirs = getattr(tokenizer, name), getattr(found, name)
        if ours != theirs:
            raise ExportMismatch(
                f"the exported tokenizer is not the one used in training: its {name} is {theirs}, expected {ours}. "
                "Nothing was published",
                {name: ours, f"exported_{name}": theirs},
            )
    # these are copied, and say more than the digest covers: what other libraries put around a text
    source = source if source.is_dir() else source.parent
    for name in (TOKENIZER_FILE, *SIDE_FILES):
        ours, theirs = ((at / name).read_bytes() if (at / name).is_file() else None for at in (source, folder))
        where = f"the file of that name in {source}"
        if name == CHAT_TEMPLATE_FILE and chat is not None:
            ours, where = chat.template.encode(), "the template of training"
        if ours != theirs:
            what = f"the export has no {name}, expected" if theirs is None else f"{name} of the export is not"
            raise ExportMismatch(f"{what} {where}. Nothing was published", {"file": name})
    exported = HfTokenizer.from_file(str(folder / TOKENIZER_FILE))
    exported.encode_special_tokens = True
    for text in PROBE_TEXTS:
        ids = tokenizer.encode(text).tolist()
        exported_ids = exported.encode(text, add_special_tokens=False).ids
        decoded, exported_decoded = tokenizer.decode(ids), exported.decode(exported_ids, skip_special_tokens=False)
        if ids != exported_ids or decoded != exported_decoded:
            figures = {"text": text, "ids": ids, "exported_ids": exported_ids}
            raise ExportMismatch(
                f"the exported tokenizer and the one used in training disagree on {text!r}: {exported_ids[:20]} "
                f"({exported_decoded!r}) against {ids[:20]} ({decoded!r}). Nothing was published",
                figures | {"decoded": decoded, "exported_decoded": exported_decoded},
            )
    return len(PROBE_TEXTS)


def _version(distribution: str) -> str:
    if distribution == "marin":
        from marin import __version__

        return __version__
    return importlib.metadata.version(distribution)
