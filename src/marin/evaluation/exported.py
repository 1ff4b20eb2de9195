"""An exported model as an evaluation takes it: verified files, with the tokenizer and the rules that it was trained by.

What is scored is the folder and nothing else, read back as a stranger would read it, and only after its parity.json
says that it computes what the checkpoint did. An evaluation may be told to do without; its results then say so.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from marin.evaluation.scoring import DocumentPrefix, ScoredModel, check_vocabulary, scored_model
from marin.export.hf import LoadedModel, load_hf
from marin.export.hf_folder import CONFIG_FILE, hf_folder
from marin.export.verify import PARITY_FILE
from marin.io.hashing import sha256_file
from marin.processing.tokenize.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportedModel:
    """A model that was opened to be evaluated."""

    loaded: LoadedModel
    """Its shape and weights."""
    scored: ScoredModel
    """The same as scoring sees it."""
    tokenizer: Tokenizer
    """Of its folder."""
    document_prefix: DocumentPrefix | None
    """What training put before each document; None: the model is not one of ours."""
    description: dict[str, Any]
    """What it is, by content: an address would differ from machine to machine."""


def open_export(path: str | Path, tokens_per_batch: int, *, allow_unverified: bool) -> ExportedModel:
    """The model in a folder in the Hugging Face format, or of `hf://organization/name` in the local cache.

    Raises ValueError for an export that was not verified or was changed since (unless allowed), and for a tokenizer
    that does not fit the model; FileNotFoundError where there is no model.
    """
    path = hf_folder(path)
    parity = read_parity(path)
    doubt = doubt_of(path, parity)
    if doubt is not None and not allow_unverified:
        raise ValueError(
            f"the model at {path} {doubt}. Export it with marin.export, which verifies, or set allow_unverified=true "
            "to evaluate it all the same"
        )
    loaded = load_hf(path)
    tokenizer = load_tokenizer(path)
    prefix = trained_prefix(path, parity)
    scored = scored_model(loaded.config, loaded.params, loaded.vocab_size, tokens_per_batch, prefix)
    check_tokenizer(path, scored, tokenizer, parity)
    description = {
        "architecture": type(loaded.config).__name__,
        "num_params": int(loaded.config.num_params(loaded.vocab_size)),
        "seq_len": int(loaded.config.seq_len),
        "vocab_size": int(loaded.vocab_size),
        "tokenizer_digest": tokenizer.digest,
        "config_sha256": sha256_file(path / CONFIG_FILE)[1],
        "weights_sha256": {file.name: sha256_file(file)[1] for file in sorted(path.glob("*.safetensors"))},
        "verified": doubt is None,
    } | {name: parity[name] for name in ("checkpoint", "step") if parity is not None and name in parity}
    return ExportedModel(
        loaded=loaded, scored=scored, tokenizer=tokenizer, document_prefix=prefix, description=description
    )


def read_parity(model_path: str | Path) -> dict[str, Any] | None:
    """What parity.json of an exported model says; None where there is none, as in a model from elsewhere."""
    path = Path(model_path) / PARITY_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def doubt_of(model_path: str | Path, parity: Mapping[str, Any] | None) -> str | None:
    """Why the files of a model are not known to compute what its checkpoint did; None: they are.

    They are where parity.json says that they passed, and each has the hash that it had then.
    """
    if parity is None:
        return "has no parity.json: nobody checked that it computes what its checkpoint did"
    if parity.get("passed") is not True or not parity.get("sha256"):
        return "has a parity.json that does not say which files passed: nobody checked what they compute"
    changed = [
        name
        for name, digest in parity["sha256"].items()
        if not (Path(model_path) / name).is_file() or sha256_file(Path(model_path) / name)[1] != digest
    ]
    if changed:
        return f"has files that were changed after they were verified: {', '.join(sorted(changed))}"
    return None


def trained_prefix(model_path: str | Path, parity: Mapping[str, Any] | None) -> DocumentPrefix | None:
    """What training put before each document: as parity.json says, EOS where it does not; None: not one of ours."""
    if parity is None:
        return None
    prefix = parity.get("document_prefix", "eos")
    if prefix not in get_args(DocumentPrefix):
        known = " or ".join(map(repr, get_args(DocumentPrefix)))
        raise ValueError(
            f"{Path(model_path) / PARITY_FILE} says document_prefix={prefix!r}, expected {known}: it was written by "
            "another version of marin. Export the model again"
        )
    return prefix


def check_tokenizer(
    model_path: str | Path, model: ScoredModel, tokenizer: Tokenizer, parity: Mapping[str, Any] | None
) -> None:
    """Raise ValueError unless the tokenizer fits the vocabulary and is the one that the export was verified with.

    That holds with allow_unverified too: under another tokenizer no score would mean anything. A folder without a
    parity.json says of no tokenizer that it was verified; there only the vocabulary is checked.
    """
    check_vocabulary(model, tokenizer)
    # the digest covers all, the others say more
    found = {"eos_id": tokenizer.eos_id, "bos_id": tokenizer.bos_id, "tokenizer_digest": tokenizer.digest}
    for name, value in found.items():
        if parity is not None and name in parity and parity[name] != value:
            raise ValueError(
                f"the tokenizer in {model_path} is not the one that its parity.json was made with ({name} is {value}, "
                f"was {parity[name]}): the folder was changed after it was verified. Export it again"
            )
