"""An adapter as a folder for the peft library: adapter_config.json and adapter_model.safetensors.

Of a module of the Hugging Face model, W (out, in), peft stores lora_A (r, in) and lora_B (out, r) and computes W +
lora_alpha / r * lora_B @ lora_A; GPT-2's Conv1D holds (in, out) and takes the transpose (`fan_in_fan_out`). The order
of outputs is that of the exported weights, see `marin.export.layout` and `marin.export.gpt2`. What is written is read
back and added to the exported base, tensor by tensor, by that formula, and must give the merged model's tensors.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from marin.export.hf import weights_to_hf
from marin.export.verify import ExportMismatch
from marin.models.gpt2 import Gpt2Config
from marin.models.lora import LinearModule, LoraLm, LoraParams, adapted_modules, linear_modules, module_name

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_TOLERANCE = 1e-2  # of the largest change: both are products of few terms, on a GPU in less than float32
_ROUNDING = 1e-6  # of the largest weight, to which the change is added in float32


def save_adapter(model: LoraLm, params: LoraParams, output: str | Path, *, base_model: str | None = None) -> None:
    """Write the adapter into folder `output`; `base_model` is the model that peft is to load it on.

    Raises ExportMismatch where what was written does not give the merged model; the files are removed then.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    save_file(_tensors(model, params), output / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
    text = json.dumps(_description(model, base_model), indent=2, sort_keys=True) + "\n"
    (output / ADAPTER_CONFIG_FILE).write_text(text, encoding="utf-8")
    try:
        _verify(model, params, output)
    except ExportMismatch:
        for file in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE):
            (output / file).unlink()
        raise


def _tensors(model: LoraLm, params: LoraParams) -> dict[str, np.ndarray]:
    tensors = {}
    for module, layers in adapted_modules(model.base, model.lora).items():
        low_rank = params.adapter[module.key]
        for position, layer in enumerate(layers):
            name = _PREFIX + module_name(model.base, layer, module)
            b = _in_their_order(model, module, np.asarray(low_rank.b[position]))
            tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(np.asarray(low_rank.a[position]).T, np.float32)
            tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(b.T, np.float32)
    return tensors


def _in_their_order(model: LoraLm, module: LinearModule, b: np.ndarray) -> np.ndarray:
    """`(r, out)`: GPT-2's fused query, key and value are by head first here, by kind first there."""
    if module.path != "attn.c_attn":
        return b
    heads = model.base.num_heads
    return b.reshape(len(b), heads, 3, -1).swapaxes(1, 2).reshape(b.shape)


def _description(model: LoraLm, base_model: str | None) -> dict[str, Any]:
    adapted = adapted_modules(model.base, model.lora)
    targets = [module.path.rpartition(".")[2] for module in adapted]
    others = [module for module in linear_modules(model.base) if module not in adapted]
    if any(len(layers) < model.num_layers for layers in adapted.values()) or any(
        module.path.endswith(tuple(targets)) for module in others
    ):
        targets = [module_name(model.base, layer, module) for module, layers in adapted.items() for layer in layers]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": model.lora.r,
        "lora_alpha": model.lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(set(targets)),
        "fan_in_fan_out": isinstance(model.base, Gpt2Config),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _verify(model: LoraLm, params: LoraParams, output: Path) -> None:
    vocab_size = params.base.embedding.shape[0]
    expected = weights_to_hf(model.base, model.merge(params), vocab_size)
    base = weights_to_hf(model.base, params.base, vocab_size)
    found = apply_adapter(base, output)
    for name, tensor in expected.items():
        difference = float(np.abs(found[name] - tensor).max())
        change, weight = float(np.abs(tensor - base[name]).max()), float(np.abs(tensor).max())
        if not difference <= _TOLERANCE * change + _ROUNDING * weight:
            raise ExportMismatch(
                f"the adapter written for peft does not give the merged model: '{name}' differs by {difference:.3g}. "
                "Nothing was published",
                {"tensor": name, "max_abs_diff": difference},
            )


def apply_adapter(base: Mapping[str, np.ndarray], folder: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a model with the adapter in `folder` added, from its files alone."""
    folder = Path(folder)
    config = json.loads((folder / ADAPTER_CONFIG_FILE).read_text(encoding="utf-8"))
    tensors = load_file(folder / ADAPTER_WEIGHTS_FILE)
    merged = dict(base)
    for name in tensors:
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removesuffix(".lora_A.weight")
        delta = config["lora_alpha"] / config["r"] * (tensors[f"{module}.lora_B.weight"] @ tensors[name])
        target = module.removeprefix(_PREFIX) + ".weight"
        merged[target] = merged[target] + (delta.T if config["fan_in_fan_out"] else delta)
    return merged
