"""Export a trained checkpoint to the Hugging Face format, and publish it only if it is verified.

Files are written into a hidden folder inside the output, verified there, and moved into place with config.json last:
a mismatch, a full disk or a kill leaves nothing that loads. `parity.json` beside the weights says what was compared.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from marin.checkpoint import format as checkpoint_format
from marin.config import decode
from marin.export.config import ExportConfig
from marin.export.hf import CONFIG_FILE, save_hf
from marin.export.verify import PARITY_FILE, Parity, verify_export
from marin.models.config import LmConfig
from marin.processing.tokenize.tokenizer import load_tokenizer

__all__ = ["ExportConfig", "export_model"]

_UNVERIFIED = ".unverified"


def export_model(config: ExportConfig) -> Parity:
    """Write the checkpoint as a Hugging Face folder at `output_path`, with parity.json.

    Raises:
        ExportMismatch: the files do not compute what the checkpoint does; nothing is published.
        ValueError: the tokenizer is not the one of the training run.
        FileNotFoundError: there is no training run or no checkpoint at that place.
        CorruptCheckpointError: the checkpoint's bytes are not those that were saved.
    """
    train, output = Path(config.train_path), Path(config.output_path)
    description = _read_description(train)
    model: LmConfig = decode(LmConfig, description["model"])  # type: ignore[type-abstract]
    vocab_size = description["vocab_size"]
    _check_tokenizer(config.tokenizer_path, description["tokenizer_digest"], train)
    checkpoint = _find_checkpoint(train, config.checkpoint)
    shapes = jax.eval_shape(lambda: model.init(vocab_size, key=jax.random.key(0)))
    params = checkpoint_format.load(checkpoint, shapes, prefix="params")

    unverified = output / _UNVERIFIED
    shutil.rmtree(unverified, ignore_errors=True)
    try:
        save_hf(model, params, vocab_size, config.tokenizer_path, unverified)
        parity = verify_export(
            unverified,
            config=model,
            params=params,
            vocab_size=vocab_size,
            tokenizer_path=config.tokenizer_path,
            probe_length=config.probe_length,
        )
        source = {"checkpoint": checkpoint.name, "step": checkpoint_format.read_metadata(checkpoint)["step"]}
        _write_parity(unverified / PARITY_FILE, asdict(parity) | source | {"num_params": model.num_params(vocab_size)})
        _publish(unverified, output)
    finally:
        shutil.rmtree(unverified, ignore_errors=True)
    print(
        f"exported {checkpoint.name} of {train}: logits of {parity.num_positions} positions agree to "
        f"{parity.max_abs_diff:.2g}, {parity.num_tokenizer_texts} texts encode alike",
        flush=True,
    )
    return parity


def _read_description(train: Path) -> dict[str, Any]:
    path = train / "model.json"
    if not path.is_file():
        raise FileNotFoundError(f"no training run at {train}: it has no model.json; give the folder of a training step")
    return json.loads(path.read_text(encoding="utf-8"))


def _check_tokenizer(path: str, digest: str, train: Path) -> None:
    given = load_tokenizer(path).digest
    if given != digest:
        raise ValueError(
            f"the tokenizer at {path} (digest {given[:12]}) is not the one that {train} was trained with "
            f"(digest {digest[:12]}); export with the tokenizer that made its token stores"
        )


def _find_checkpoint(train: Path, name: str | None) -> Path:
    if name is not None:
        if not (train / name).is_dir():
            raise FileNotFoundError(f"no checkpoint '{name}' in {train}; leave it out to export the newest")
        return train / name
    found = checkpoint_format.latest(train / "checkpoints")
    if found is None:
        raise FileNotFoundError(f"{train} has no complete checkpoint in checkpoints/; has training saved one yet?")
    return Path(found)


def _write_parity(path: Path, parity: dict[str, Any]) -> None:
    path.write_text(json.dumps(parity, indent=2) + "\n", encoding="utf-8")


def _publish(folder: Path, output: Path) -> None:
    """Move the files of `folder` into `output`, config.json last; while they move, `output` holds no config.json."""
    (output / CONFIG_FILE).unlink(missing_ok=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG_FILE):
        path.replace(output / path.name)
