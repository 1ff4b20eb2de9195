"""Models as folders in the Hugging Face format, written and read.

The weights are float32, in one safetensors file or, where they are many, in several with an index, so that an export
can be compared with its checkpoint to the last digit that matters; a reader that wants less precision casts on loading.
Each architecture's names and layout are in a file of its own (`marin.export.llama` and so on); here is what they share.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from marin.data.store import ChatInfo
from marin.export import gemma, gemma2, gemma3, gpt2, llama, mistral, mixtral, olmo2, qwen2, qwen3
from marin.export.config import MAX_SHARD_BYTES
from marin.export.hf_folder import CONFIG_FILE, hf_folder
from marin.models.config import LmConfig
from marin.models.gemma import GemmaConfig
from marin.models.gemma2 import Gemma2Config
from marin.models.gemma3 import Gemma3Config
from marin.models.gpt2 import Gpt2Config
from marin.models.llama import LlamaConfig
from marin.models.mistral import MistralConfig
from marin.models.mixtral import MixtralConfig
from marin.models.olmo2 import Olmo2Config
from marin.models.qwen2 import Qwen2Config
from marin.models.qwen3 import Qwen3Config
from marin.processing.tokenize.tokenizer import CHAT_TEMPLATE_FILE, Tokenizer, load_tokenizer

GENERATION_FILE = "generation_config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_BY_CONFIG: dict[type, ModuleType] = {
    LlamaConfig: llama,
    Gpt2Config: gpt2,
    Qwen3Config: qwen3,
    Qwen2Config: qwen2,
    MistralConfig: mistral,
    MixtralConfig: mixtral,
    Olmo2Config: olmo2,
    GemmaConfig: gemma,
    Gemma2Config: gemma2,
    Gemma3Config: gemma3,
}
_BY_MODEL_TYPE: dict[str, ModuleType] = {
    "llama": llama,
    "gpt2": gpt2,
    "qwen3": qwen3,
    "qwen2": qwen2,
    "mistral": mistral,
    "mixtral": mixtral,
    "olmo2": olmo2,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3,
}


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model read from a folder in the Hugging Face format."""

    config: LmConfig
    """Its shape."""
    params: Any
    """Its weights, float32."""
    vocab_size: int
    """Number of token ids."""


def save_hf(
    config: LmConfig,
    params: Any,
    vocab_size: int,
    tokenizer_path: str | Path,
    output_path: str | Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    chat: ChatInfo | None = None,
) -> None:
    """Write config.json, generation_config.json, weights and the tokenizer's files into `output_path`.

    With `chat`, how the model was spoken to in training, its template takes the place of the tokenizer's, and the
    token that ends a turn ends a generation too.

    The weights are model.safetensors, or, where they are more than `max_shard_bytes`, model-00001-of-00002.safetensors
    and so on with model.safetensors.index.json. If `params` hold more than `vocab_size` rows, the rows beyond are left
    out. Raises ValueError where they hold fewer, or where the tokenizer has an id beyond the vocabulary.
    """
    _architecture(config)  # refuses a model that there is no export for
    tokenizer = load_tokenizer(tokenizer_path)
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"the tokenizer at {tokenizer_path} has {tokenizer.vocab_size} ids but the model a vocabulary of "
            f"{vocab_size}; export with the tokenizer that the model was trained with"
        )
    rows = params.embedding.shape[0]
    if rows < vocab_size:
        raise ValueError(f"the model embeds {rows} tokens, fewer than vocab_size={vocab_size}")
    output = Path(output_path)
    output.mkdir(parents=True, exist_ok=True)
    tokenizer.save(output)
    if chat is not None:
        (output / CHAT_TEMPLATE_FILE).write_text(chat.template, encoding="utf-8")
    _write_tensors(output, weights_to_hf(config, params, vocab_size), max_shard_bytes)
    for name, description in describe_hf(config, vocab_size, tokenizer, chat).items():
        text = json.dumps(description, indent=2, sort_keys=True) + "\n"
        (output / name).write_text(text, encoding="utf-8")


def _write_tensors(output: Path, tensors: Mapping[str, np.ndarray], max_shard_bytes: int) -> None:
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        num_bytes = 4 * tensor.size
        if shards[-1] and size + num_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += num_bytes
    files = [WEIGHTS_FILE]
    if len(shards) > 1:
        files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
        index = {
            "metadata": {"total_size": 4 * sum(tensor.size for tensor in tensors.values())},
            "weight_map": {name: file for file, names in zip(files, shards, strict=True) for name in names},
        }
        (output / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for file, names in zip(files, shards, strict=True):
        save_file(
            {name: np.ascontiguousarray(tensors[name], np.float32) for name in names},
            output / file,
            metadata={"format": "pt"},  # transformers refuses a file that does not say so
        )


def weights_to_hf(config: LmConfig, params: Any, vocab_size: int) -> dict[str, np.ndarray]:
    """The tensors of a model by their Hugging Face name, the vocabulary cut to `vocab_size` rows."""
    return _architecture(config).weights_to_hf(config, params, vocab_size)


def check_exportable(config: LmConfig) -> None:
    """Raise ValueError for a model that the Hugging Face format has no place for."""
    _architecture(config).config_to_hf(config, 0)


def describe_hf(
    config: LmConfig, vocab_size: int, tokenizer: Tokenizer, chat: ChatInfo | None = None
) -> dict[str, dict[str, Any]]:
    """File name -> content of the JSON files that describe an export: generation_config.json and config.json."""
    special: dict[str, Any] = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    ends = special
    if chat is not None and chat.stop_id != tokenizer.eos_id:
        ends = special | {"eos_token_id": [tokenizer.eos_id, chat.stop_id]}
    shape = _architecture(config).config_to_hf(config, vocab_size)
    return {
        GENERATION_FILE: ends | {"do_sample": False, "max_length": config.seq_len},
        CONFIG_FILE: shape | special | {"dtype": "float32", "use_cache": True},
    }


def config_from_hf(description: Mapping[str, Any]) -> LmConfig:
    """Our config from the content of a config.json.

    Raises ValueError for an architecture or a setting that marin does not have.
    """
    kind = description.get("model_type")
    if kind not in _BY_MODEL_TYPE:
        known = ", ".join(map(repr, _BY_MODEL_TYPE))
        raise ValueError(f"config.json describes a model of type {kind!r}; marin reads {known}")
    return _BY_MODEL_TYPE[kind].config_from_hf(description)


def load_hf(path: str | Path) -> LoadedModel:
    """A model from a folder with config.json and safetensors, ours or written by transformers; weights as float32.

    Raises ValueError, naming the file, for one that is damaged, for an architecture or a setting that marin does not
    have, and for tensors that do not fit the config.
    """
    folder = hf_folder(path)
    config = read_config(folder)
    description = _read_json(folder / CONFIG_FILE)
    tensors = _read_tensors(folder)
    try:
        params = _architecture(config).weights_from_hf(config, tensors)
    except KeyError as missing:
        kind = description["model_type"]
        raise ValueError(f"{folder} lacks the tensor {missing} of a {kind} model as its config.json says") from None
    vocab_size = params.embedding.shape[0]
    _check_shapes(config, params, vocab_size, folder)
    if description.get("vocab_size", vocab_size) != vocab_size:
        raise ValueError(
            f"{folder}: config.json says vocab_size={description['vocab_size']}, but {vocab_size} tokens are embedded"
        )
    return LoadedModel(config=config, params=params, vocab_size=vocab_size)


def read_config(path: str | Path) -> LmConfig:
    """Our config of the model in a folder in the Hugging Face format (or `hf://...`, see `hf_folder`).

    Raises FileNotFoundError where there is none, and ValueError, naming the folder, for one that marin cannot read.
    """
    file = hf_folder(path) / CONFIG_FILE
    if not file.is_file():
        raise FileNotFoundError(f"no model at {path}: expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}")
    description = _read_json(file)
    try:
        return config_from_hf(description)
    except KeyError as missing:
        raise ValueError(f"{file} lacks {missing}, which describes its {description['model_type']} model") from None
    except ValueError as error:
        raise ValueError(f"{file.parent}: {error}") from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}. Get it again from where the model is published.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a JSON object, got {type(content).__name__} {content!r:.80}")
    return content


def check_same_architecture(config: LmConfig, found: LmConfig, folder: Path) -> None:
    """ValueError, with the fields that differ, unless weights for `found` compute the same as those for `config`.

    The longest sequence may differ where positions have no weights, and how weights are drawn has no part in it.
    """
    if type(config) is not type(found):
        raise ValueError(f"{folder} holds a {type(found).__name__}, and the config says {type(config).__name__}")
    ours, theirs = (
        {**describe, **dict.fromkeys(("max_position_embeddings", "initializer_range"))}
        for describe in (_architecture(each).config_to_hf(each, 0) for each in (config, found))
    )
    differing = [
        f"{name} is {theirs[name]!r} there and {ours[name]!r} here" for name in ours if ours[name] != theirs[name]
    ]
    if differing:
        raise ValueError(
            f"{folder} holds a {type(found).__name__} of another shape: {'; '.join(differing)}. Leave the model out of "
            "the config to take that of the folder."
        )


def cut_vocabulary(params: Any, vocab_size: int) -> Any:
    """Parameters for the first `vocab_size` tokens alone."""
    cut = {"embedding": params.embedding[:vocab_size]}
    if getattr(params, "unembedding", None) is not None:
        cut["unembedding"] = params.unembedding[:, :vocab_size]
    return replace(params, **cut)


def _architecture(config: LmConfig) -> ModuleType:
    if type(config) not in _BY_CONFIG:
        known = ", ".join(cls.__name__ for cls in _BY_CONFIG)
        raise ValueError(f"no export for {type(config).__name__}; there is one for {known}")
    return _BY_CONFIG[type(config)]


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files of a model: one, or those that the index names."""
    if (folder / WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
    if not (folder / INDEX_FILE).is_file():
        raise FileNotFoundError(
            f"no weights at {folder}: expected {WEIGHTS_FILE} or {INDEX_FILE}. Weights in pytorch_model.bin become "
            "safetensors by transformers: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"
        )
    return sorted(set(_weight_map(folder).values()))


def _weight_map(folder: Path) -> Mapping[str, str]:
    index = _read_json(folder / INDEX_FILE)
    if not isinstance(index.get("weight_map"), dict):
        raise ValueError(f"{folder / INDEX_FILE} has no `weight_map` that says which file holds which tensor")
    return index["weight_map"]


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of the safetensors files, float32. ValueError where a file has other ones than the index says."""
    tensors = {}
    files = weight_files(folder)
    expected = None if files == [WEIGHTS_FILE] else _weight_map(folder)
    for file in files:
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} lacks {file}, which {INDEX_FILE} names")
        for name, tensor in _read_file(folder / file).items():
            if expected is not None and expected.get(name) != file:
                raise ValueError(f"{folder / file} holds the tensor '{name}', which {INDEX_FILE} does not say")
            tensors[name] = tensor
    return tensors


def _read_file(file: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(file, framework="flax") as opened:  # of the frameworks, the one here that has bfloat16
            names = opened.keys()
            return {name: np.asarray(opened.get_tensor(name)).astype(np.float32) for name in names}
    except SafetensorError as error:
        raise ValueError(
            f"{file} ({file.stat().st_size:,} bytes) is no whole safetensors file: {error}. Get it again from where "
            "the model is published."
        ) from error


def _check_shapes(config: LmConfig, params: Any, vocab_size: int, folder: Path) -> None:
    expected = jax.eval_shape(lambda: config.init(vocab_size, key=jax.random.key(0)))
    for (path, given), want in zip(jax.tree.leaves_with_path(params), jax.tree.leaves(expected), strict=True):
        if given.shape != want.shape:
            raise ValueError(
                f"{folder}: the weights for {jax.tree_util.keystr(path)} have shape {given.shape}, "
                f"but config.json asks for {want.shape}"
            )
