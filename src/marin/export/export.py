"""Export a trained checkpoint to the Hugging Face format, and publish it only if it is verified.

Files are written into a hidden folder inside the output, verified there, and moved into place with config.json last:
a mismatch, a full disk or a kill leaves nothing that loads. `parity.json` beside the weights says what was compared.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax

from marin.checkpoint import format as checkpoint_format
from marin.checkpoint.format import CorruptCheckpointError
from marin.config import decode
from marin.data.store import ChatInfo
from marin.export.config import MAX_SHARD_BYTES, ExportConfig
from marin.export.hf import INDEX_FILE, save_hf
from marin.export.hf_folder import CONFIG_FILE
from marin.export.peft import save_adapter
from marin.export.verify import PARITY_FILE, Parity, verify_export
from marin.models.config import LmConfig
from marin.models.lora import LoraLm
from marin.models.lora_config import LoraConfig
from marin.processing.tokenize.tokenizer import load_tokenizer

__all__ = ["ExportConfig", "TrainedModel", "export_model", "export_params", "load_trained"]

_UNVERIFIED = ".unverified"
_WHAT_TO_DO = "Run the training step again, or name another checkpoint to export (checkpoint='checkpoints/step-...')."


def export_model(config: ExportConfig) -> Parity | None:
    """Write the checkpoint as a Hugging Face folder at `output_path`, with parity.json; None for an adapter alone.

    Raises:
        ExportMismatch: the files do not compute what the checkpoint does; nothing is published.
        ValueError: the tokenizer is not the one of the training run.
        FileNotFoundError: there is no training run or no checkpoint at that place.
        CorruptCheckpointError: the checkpoint's bytes are not those that were saved. No other one takes its place,
            since the export would then be another model under the same name.
    """
    train, output = Path(config.train_path), Path(config.output_path)
    description = _read_description(train)
    _check_tokenizer(config.tokenizer_path, description, train)
    if config.adapter_alone and description.get("lora") is None:
        raise ValueError(f"{train} trained no LoRA adapter: export the model (adapter_alone=False)")
    try:
        found = load_trained(train, config.checkpoint, average=config.average)
    except CorruptCheckpointError as error:
        error.args = (f"cannot export: {error} {_WHAT_TO_DO}",)
        raise
    checkpoint, trained, params = found.checkpoint, found.trained, found.params
    if isinstance(trained, LoraLm) and config.adapter_alone:
        return _export_adapter(trained, params, description, checkpoint, output)
    model, params, vocab_size = found.model, found.merged(), found.vocab_size

    source = {
        "checkpoint": checkpoint.name,
        "step": checkpoint_format.read_metadata(checkpoint)["step"],
        "average": config.average,
    }
    parity = export_params(
        model,
        params,
        vocab_size,
        tokenizer_path=config.tokenizer_path,
        output=output,
        probe_length=config.probe_length,
        max_shard_bytes=config.max_shard_bytes,
        chat=None if description.get("chat") is None else ChatInfo(**description["chat"]),
        # what training put before each document
        source=source | {"document_prefix": description.get("document_prefix", "eos")},
    )
    print(
        f"exported {checkpoint.name} of {train}: logits of {parity.num_positions} positions agree to "
        f"{parity.max_abs_diff:.2g}, {parity.num_tokenizer_texts} texts encode alike",
        flush=True,
    )
    return parity


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What a checkpoint of a training run holds."""

    model: LmConfig
    """The model."""
    trained: LmConfig
    """What was trained: the model, or with an adapter a LoraLm of it."""
    params: Any
    """The parameters of `trained`, float32."""
    vocab_size: int
    """Number of token ids."""
    checkpoint: Path
    """Where they lie."""
    description: Mapping[str, Any]
    """model.json of the run."""

    def merged(self) -> Any:
        """The parameters of `model`: an adapter is merged in."""
        return self.trained.merge(self.params) if isinstance(self.trained, LoraLm) else self.params


def load_trained(train_path: str | Path, checkpoint: str | None = None, *, average: bool = False) -> TrainedModel:
    """A checkpoint of a training run, `checkpoints/step-...`; None: the one that training ended with, or the newest.

    `average` takes the running average of the parameters that training kept.

    Raises as `export_model` does.
    """
    train = Path(train_path)
    description = _read_description(train)
    model: LmConfig = decode(LmConfig, description["model"])  # type: ignore[type-abstract]
    lora = None if description.get("lora") is None else decode(LoraConfig, description["lora"])
    trained = model if lora is None else LoraLm(base=model, lora=lora)
    found = _find_checkpoint(train, checkpoint)
    shapes = jax.eval_shape(lambda: trained.init(description["vocab_size"], key=jax.random.key(0)))
    params = checkpoint_format.load(found, shapes, prefix=_part_to_load(average, found))
    return TrainedModel(
        model=model,
        trained=trained,
        params=params,
        vocab_size=description["vocab_size"],
        checkpoint=found,
        description=description,
    )


def export_params(
    model: LmConfig,
    params: Any,
    vocab_size: int,
    *,
    tokenizer_path: str,
    output: Path,
    probe_length: int,
    source: Mapping[str, Any],
    max_shard_bytes: int = MAX_SHARD_BYTES,
    chat: ChatInfo | None = None,
) -> Parity:
    """Write these parameters as a Hugging Face folder at `output`, with parity.json, which says `source` too.

    What `output` holds of an earlier export is replaced. Raises as `export_model` does.
    """
    unverified = output / _UNVERIFIED
    shutil.rmtree(unverified, ignore_errors=True)
    try:
        save_hf(model, params, vocab_size, tokenizer_path, unverified, max_shard_bytes=max_shard_bytes, chat=chat)
        parity = verify_export(
            unverified,
            config=model,
            params=params,
            vocab_size=vocab_size,
            tokenizer_path=tokenizer_path,
            probe_length=probe_length,
            chat=chat,
        )
        about = {**source, "num_params": model.num_params(vocab_size)}
        _write_parity(unverified / PARITY_FILE, asdict(parity) | about)
        _publish(unverified, output)
    finally:
        shutil.rmtree(unverified, ignore_errors=True)
    return parity


def _export_adapter(model: LoraLm, params: Any, description: Mapping[str, Any], checkpoint: Path, output: Path) -> None:
    """Write the adapter, found to give the merged model, beside what it was made from."""
    save_adapter(model, params, output, base_model=description.get("base_model"))
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params.adapter))
    print(
        f"exported the adapter of {checkpoint.name}, {num_params:,} parameters, verified tensor by tensor", flush=True
    )


def _read_description(train: Path) -> dict[str, Any]:
    path = train / "model.json"
    if not path.is_file():
        raise FileNotFoundError(f"no training run at {train}: it has no model.json; give the folder of a training step")
    return json.loads(path.read_text(encoding="utf-8"))


def _part_to_load(average: bool, checkpoint: Path) -> str:
    """What of the checkpoint is the model. ValueError where it is to be an average that training did not keep."""
    if not average:
        return "params"
    if not any(name.startswith("average.") for name in checkpoint_format.saved_arrays(checkpoint)):
        raise ValueError(
            f"{checkpoint} holds no average of the parameters: the run was trained without trainer.ema_beta. Take "
            "the parameters (average=False)."
        )
    return "average"


def _check_tokenizer(path: str, description: Mapping[str, Any], train: Path) -> None:
    tokenizer = load_tokenizer(path)
    given = {"tokenizer_digest": tokenizer.digest, "eos_id": tokenizer.eos_id, "bos_id": tokenizer.bos_id}
    differing = [name for name in given if given[name] != description[name]]
    if differing:
        what = "; ".join(f"{name} is {given[name]}, was {description[name]}" for name in differing)
        raise ValueError(
            f"the tokenizer at {path} is not the one that {train} was trained with: {what}. "
            "Export with the tokenizer that made its token stores"
        )


def _find_checkpoint(train: Path, name: str | None) -> Path:
    """The checkpoint of that name; None: the one that a finished training names, else the one with most steps."""
    if name is not None:
        if not (train / name).is_dir():
            raise FileNotFoundError(f"no checkpoint '{name}' in {train}; leave it out to export the last")
        return train / name
    summary = train / "summary.json"
    if summary.is_file():
        named = train / json.loads(summary.read_text(encoding="utf-8"))["checkpoint"]
        if not named.is_dir():
            raise FileNotFoundError(
                f"{summary} says that training ended with {named.relative_to(train)}, which is not there. {_WHAT_TO_DO}"
            )
        return named
    # by name alone: one that lost its manifest is damaged, and is not passed over either
    steps = {int(path.name.removeprefix("step-")): path for path in (train / "checkpoints").glob("step-[0-9]*[0-9]")}
    if not steps:
        raise FileNotFoundError(f"{train} has no checkpoint in checkpoints/; has training saved one yet?")
    return steps[max(steps)]


def _write_parity(path: Path, parity: dict[str, Any]) -> None:
    path.write_text(json.dumps(parity, indent=2) + "\n", encoding="utf-8")


def _publish(folder: Path, output: Path) -> None:
    """Move the files of `folder` into `output`, config.json last; while they move, `output` holds no config.json.

    Weights of an earlier export go, also where they were cut into other files.
    """
    (output / CONFIG_FILE).unlink(missing_ok=True)
    for path in (output / INDEX_FILE, *output.glob("model*.safetensors")):
        path.unlink(missing_ok=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG_FILE):
        path.replace(output / path.name)
