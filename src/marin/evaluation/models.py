"""A model by the place where it lies: an exported folder, a training run, or one of its checkpoints.

All three become an `ExportedModel`, so that whatever is evaluated can be any of them. An export is verified
(`marin.evaluation.exported`); a checkpoint is what was trained, its bytes compared with their digests as it is read,
and needs the tokenizer, which the run's config names.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marin.checkpoint.format import manifest_digest
from marin.evaluation.exported import ExportedModel, open_export, read_parity
from marin.evaluation.scoring import DocumentPrefix, check_vocabulary, scored_model
from marin.export.export import TrainedModel, load_trained
from marin.export.hf import GENERATION_FILE, LoadedModel
from marin.export.hf_folder import CONFIG_FILE, hf_folder
from marin.io.hashing import sha256_file
from marin.processing.tokenize.tokenizer import Tokenizer, load_tokenizer

TOKENS_PER_BATCH = 4096
"""Tokens that the model reads in one call, where nobody says."""

_CHECKPOINT = re.compile(r"step-\d{8,}")


def open_model(
    path: str | Path,
    *,
    checkpoint: str | None = None,
    tokenizer: str | Path | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    average: bool = False,
    allow_unverified: bool = False,
    allow_foreign: bool = True,
) -> ExportedModel:
    """The model at `path`: a folder in the Hugging Face format (or `hf://...`), a training run, or a checkpoint of one.

    Args:
        path: of a run, the checkpoint that training ended with is taken, or the newest.
        checkpoint: another one of the run, like `checkpoints/step-00000500`.
        tokenizer: folder of the tokenizer of a checkpoint; None: the one that the run's config names.
        tokens_per_batch: tokens that the model reads in one call.
        average: take the running average of the parameters that training kept, of a checkpoint.
        allow_unverified: also take an export whose files were changed since it was verified.
        allow_foreign: take a folder without parity.json, as those from elsewhere are; what is said of the model then
            says that nobody verified it.

    Raises ValueError for a tokenizer that is not the model's, and as `open_export` and `load_trained` do;
    FileNotFoundError where there is no model.
    """
    folder = hf_folder(path)
    if (folder / CONFIG_FILE).is_file():
        if checkpoint is not None or average:
            raise ValueError(f"{path} is an exported model, which has no checkpoints: leave checkpoint and average out")
        is_foreign = allow_foreign and read_parity(folder) is None
        return open_export(folder, tokens_per_batch, allow_unverified=allow_unverified or is_foreign)
    if checkpoint is None and _CHECKPOINT.fullmatch(folder.name) and (folder.parent.parent / "model.json").is_file():
        folder, checkpoint = folder.parent.parent, f"{folder.parent.name}/{folder.name}"
    if not (folder / "model.json").is_file():
        raise FileNotFoundError(
            f"no model at {path}: expected a folder in the Hugging Face format ({CONFIG_FILE} and safetensors), a "
            "training run (model.json and checkpoints/), or one of its checkpoints (checkpoints/step-...)"
        )
    trained = load_trained(folder, checkpoint, average=average)
    return opened_checkpoint(
        trained, run_tokenizer(folder, tokenizer), tokens_per_batch=tokens_per_batch, average=average
    )


def opened_checkpoint(
    trained: TrainedModel, tokenizer: Tokenizer, *, tokens_per_batch: int, average: bool = False
) -> ExportedModel:
    """A checkpoint that was loaded, ready to be evaluated. ValueError where the tokenizer is not the run's."""
    expected, run = trained.description, trained.checkpoint.parent.parent
    if tokenizer.digest != expected["tokenizer_digest"]:
        raise ValueError(
            f"the tokenizer {tokenizer!r} is not the one that {run} was trained with (digest "
            f"{expected['tokenizer_digest'][:12]}). Give the tokenizer that made its token stores"
        )
    prefix: DocumentPrefix = expected.get("document_prefix", "eos")
    loaded = LoadedModel(config=trained.model, params=trained.merged(), vocab_size=trained.vocab_size)
    scored = scored_model(loaded.config, loaded.params, loaded.vocab_size, tokens_per_batch, prefix)
    check_vocabulary(scored, tokenizer)
    description = {
        "architecture": type(loaded.config).__name__,
        "num_params": int(loaded.config.num_params(loaded.vocab_size)),
        "seq_len": int(loaded.config.seq_len),
        "vocab_size": int(loaded.vocab_size),
        "tokenizer_digest": tokenizer.digest,
        "config_sha256": sha256_file(run / "model.json")[1],
        "checkpoint": trained.checkpoint.name,
        "weights_sha256": {trained.checkpoint.name: manifest_digest(trained.checkpoint)},
        "step": int(trained.checkpoint.name.removeprefix("step-")),
        "average": average,
        "verified": True,
    }
    return ExportedModel(
        loaded=loaded, scored=scored, tokenizer=tokenizer, document_prefix=prefix, description=description
    )


def run_tokenizer(run: Path, given: str | Path | None = None) -> Tokenizer:
    """The tokenizer of a training run: the one given, else the one that its config names. ValueError without one."""
    place: Any = given
    if place is None and (run / "config.yaml").is_file():
        import yaml

        data = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")).get("data") or {}
        place = data.get("tokenizer")
    if place is None:
        raise ValueError(
            f"the config of {run} does not name its tokenizer (data.tokenizer): give the tokenizer's folder, or "
            "evaluate an export of the run, which has it"
        )
    try:
        return load_tokenizer(place)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the tokenizer of {run}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class ModelChat:
    """How a model is talked with, as its files say."""

    template: str | None
    """Jinja text of the chat template; None: it has none."""
    end_ids: tuple[int, ...]
    """Tokens that end its turns, beside the tokenizer's EOS."""


def model_chat(path: str | Path, tokenizer: Tokenizer) -> ModelChat:
    """The chat template and the ends of turns of the model at `path`, as `open_model` takes it.

    A folder in the Hugging Face format has them in chat_template.jinja (or tokenizer_config.json) and in
    generation_config.json; a training run, and a checkpoint of one, in model.json.
    """
    folder = hf_folder(path)
    for run in () if (folder / CONFIG_FILE).is_file() else (folder, folder.parent.parent):
        if (run / "model.json").is_file():
            chat = json.loads((run / "model.json").read_text(encoding="utf-8")).get("chat")
            if chat is None:
                return ModelChat(template=tokenizer.chat_template, end_ids=())
            return ModelChat(template=chat["template"], end_ids=(chat["stop_id"],))
    file = folder / GENERATION_FILE
    ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
    end_ids = tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)
    return ModelChat(template=tokenizer.chat_template, end_ids=end_ids)


def checkpoints_of(run: str | Path) -> list[str]:
    """The checkpoints of a training run, `checkpoints/step-...`, in the order of their steps.

    FileNotFoundError where there is none.
    """
    from marin.checkpoint.discover import list_checkpoints

    if not Path(run, "model.json").is_file():
        raise FileNotFoundError(f"no training run at {run}: it has no model.json; give the folder of a training step")
    found = [f"checkpoints/{folder.path.name}" for folder in sorted(list_checkpoints(Path(run, "checkpoints")))]
    if not found:
        raise FileNotFoundError(f"{run} has no checkpoint in checkpoints/; has training saved one yet?")
    return found
