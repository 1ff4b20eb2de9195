"""Low-rank adapters for the linear layers of any model here (LoRA, Hu et al. 2021, arXiv:2106.09685).

A linear layer W (in, out) becomes W + alpha / r * a @ b with a (in, r), b (r, out). W is frozen, a is drawn and b
begins at 0, so an adapted model begins as the model it adapts. The sum is formed once a step, for all layers, and
handed to the model's own code: no model knows of adapters, and merged and unmerged are the same numbers by
construction. The price is memory: inside a step there is a second copy of the adapted matrices and a gradient of their
size, so what is saved against full training is the optimizer's state (two thirds of what a state holds under Adam), not
the gradient.

Modules have the names of the Hugging Face format, query, key and value one each, so that an adapter can be written for
the peft library (`marin.export.peft`). An adapter holds (layers, in, r) and (layers, r, out) of the layers it changes.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from marin.models.config import AuxiliaryLossConfig, LmConfig
from marin.models.gpt2 import Gpt2Config
from marin.models.lora_config import LoraConfig
from marin.models.mixtral import MixtralConfig


# As pytrees these classes also hold masks and shapes, hence unchecked.
@jax.tree_util.register_dataclass
@no_type_check
@dataclass(frozen=True, kw_only=True)
class LowRank:
    """The two matrices of one kind of linear layer, for each layer that is adapted."""

    a: Float[Array, "layers inputs rank"]
    b: Float[Array, "layers rank outputs"]


@jax.tree_util.register_dataclass
@no_type_check
@dataclass(frozen=True, kw_only=True)
class LoraParams:
    """A model's own parameters, and the adapter that is trained."""

    base: Any
    adapter: dict[str, LowRank]
    """By the module's path in a layer, with - for each dot: `self_attn-q_proj`."""


@dataclass(frozen=True, kw_only=True)
class LinearModule:
    """Where a linear layer of the Hugging Face format lies among our arrays, `(layers, *inputs, *outputs)`."""

    path: str
    """Its name in a layer."""
    array: str
    """The field of the stacked layers."""
    num_inputs: int = 1
    """How many axes after the first are its input."""
    part: tuple[int, int, int | None] | None = None
    """(axis, start, stop), as of a slice, where it is a part of the array."""

    @property
    def key(self) -> str:
        """Its name in an adapter."""
        return self.path.replace(".", "-")

    def index(self, ndim: int, layers: Any) -> tuple[Any, ...]:
        """What picks it, of these layers, out of the array."""
        index: list[Any] = [slice(None)] * ndim
        index[0] = layers
        if self.part is not None:
            index[self.part[0]] = slice(*self.part[1:])
        return tuple(index)

    def shape(self, array: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(input axes, output axes) of one layer of it."""
        whole = list(array.shape)
        if self.part is not None:
            axis, *part = self.part
            whole[axis] = len(range(whole[axis])[slice(*part)])
        return tuple(whole[1 : 1 + self.num_inputs]), tuple(whole[1 + self.num_inputs :])


_ATTENTION = (
    LinearModule(path="self_attn.q_proj", array="qkv", part=(3, 0, -2)),
    LinearModule(path="self_attn.k_proj", array="qkv", part=(3, -2, -1)),
    LinearModule(path="self_attn.v_proj", array="qkv", part=(3, -1, None)),
    LinearModule(path="self_attn.o_proj", array="attention_out", num_inputs=3),
)
_GATED_MLP = (
    LinearModule(path="mlp.gate_proj", array="gate_up", part=(2, 0, 1)),
    LinearModule(path="mlp.up_proj", array="gate_up", part=(2, 1, 2)),
    LinearModule(path="mlp.down_proj", array="down"),
)
_GPT2 = (
    LinearModule(path="attn.c_attn", array="qkv"),
    LinearModule(path="attn.c_proj", array="attention_out", num_inputs=2),
    LinearModule(path="mlp.c_fc", array="up"),
    LinearModule(path="mlp.c_proj", array="down"),
)


def linear_modules(model: LmConfig) -> tuple[LinearModule, ...]:
    """The layers that can be adapted."""
    if isinstance(model, Gpt2Config):
        return _GPT2
    return _ATTENTION if isinstance(model, MixtralConfig) else _ATTENTION + _GATED_MLP


def module_name(model: LmConfig, layer: int, module: LinearModule) -> str:
    """Its whole name in the Hugging Face format."""
    return f"{'transformer.h' if isinstance(model, Gpt2Config) else 'model.layers'}.{layer}.{module.path}"


def adapted_modules(model: LmConfig, lora: LoraConfig) -> dict[LinearModule, tuple[int, ...]]:
    """What `lora` adapts: module -> its layers. ValueError for a module that there is not, and where none is left."""
    modules = linear_modules(model)
    known = sorted({module.path for module in modules} | {module.path.rpartition(".")[2] for module in modules})
    for target in lora.target_modules or ():
        if target not in known:
            raise ValueError(f"lora.target_modules names {target!r}; a {type(model).__name__} has {', '.join(known)}")

    def is_adapted(module: LinearModule, layer: int) -> bool:
        name = module_name(model, layer, module)
        targets = lora.target_modules
        return (
            (targets is None or any(f".{name}".endswith(f".{target}") for target in targets))
            and (lora.include is None or re.search(lora.include, name) is not None)
            and (lora.exclude is None or re.search(lora.exclude, name) is None)
        )

    found = {
        module: tuple(layer for layer in range(model.num_layers) if is_adapted(module, layer)) for module in modules
    }
    found = {module: layers for module, layers in found.items() if layers}
    if not found:
        raise ValueError(
            f"lora adapts nothing: no layer is left by target_modules {lora.target_modules}, include {lora.include!r} "
            f"and exclude {lora.exclude!r}; names are like {module_name(model, 0, modules[0])!r}"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class LoraLm:
    """A model with an adapter; satisfies `LmConfig`, with `LoraParams` as parameters."""

    base: LmConfig
    lora: LoraConfig

    @property
    def seq_len(self) -> int:
        return self.base.seq_len

    @property
    def hidden_dim(self) -> int:
        return self.base.hidden_dim

    @property
    def num_layers(self) -> int:
        return self.base.num_layers

    @property
    def num_heads(self) -> int:
        return self.base.num_heads

    @property
    def final_logit_softcap(self) -> float | None:
        return self.base.final_logit_softcap

    def init(self, vocab_size: int, *, key: Array) -> LoraParams:
        """Parameters of the model, and an adapter that changes nothing yet.

        a is uniform within 1 / sqrt(in) of 0 (as peft draws it), b is 0.
        """
        base = self.base.init(vocab_size, key=key)
        adapter = {}
        for number, (module, layers) in enumerate(adapted_modules(self.base, self.lora).items()):
            inputs, outputs = (math.prod(axes) for axes in module.shape(getattr(base.layers, module.array)))
            draw = jax.random.fold_in(key, number)
            bound = inputs**-0.5
            adapter[module.key] = LowRank(
                a=jax.random.uniform(draw, (len(layers), inputs, self.lora.r), minval=-bound, maxval=bound),
                b=jnp.zeros((len(layers), self.lora.r, outputs)),
            )
        return LoraParams(base=base, adapter=adapter)

    def merge(self, params: LoraParams) -> Any:
        """Parameters of the model itself, with the adapter added."""
        layers, arrays = params.base.layers, {}
        for module, adapted in adapted_modules(self.base, self.lora).items():
            low_rank = params.adapter[module.key]
            array = arrays.get(module.array, getattr(layers, module.array))
            inputs, outputs = module.shape(array)
            delta = self.lora.alpha / self.lora.r * jnp.einsum("lir,lro->lio", low_rank.a, low_rank.b)
            which = slice(None) if len(adapted) == self.num_layers else jnp.array(adapted)
            index = module.index(array.ndim, which)
            arrays[module.array] = array.at[index].add(delta.reshape(len(adapted), *inputs, *outputs))
        return replace(params.base, layers=replace(layers, **arrays))

    def trained(self, params: LoraParams) -> dict[str, LowRank]:
        """The part that gradients are taken of."""
        return params.adapter

    def with_trained(self, params: LoraParams, trained: dict[str, LowRank]) -> LoraParams:
        """The parameters with that part replaced."""
        return replace(params, adapter=trained)

    def hidden_states(self, params: LoraParams, tokens: Any, **options: Any) -> Any:
        return self.base.hidden_states(self.merge(params), tokens, **options)

    def hidden_states_and_auxiliary_loss(self, params: LoraParams, tokens: Any, **options: Any) -> tuple[Any, Any]:
        """With 0 where the model has no such loss."""
        merged = self.merge(params)
        if isinstance(self.base, AuxiliaryLossConfig):
            return self.base.hidden_states_and_auxiliary_loss(merged, tokens, **options)
        return self.base.hidden_states(merged, tokens, **options), jnp.float32(0.0)

    def unembedding(self, params: LoraParams) -> Any:
        return self.base.unembedding(params.base)

    def init_cache(self, batch_size: int, max_len: int, dtype: Any = "float32") -> Any:
        return self.base.init_cache(batch_size, max_len, dtype)

    def hidden_states_cached(self, params: LoraParams, tokens: Any, cache: Any, **options: Any) -> tuple[Any, Any]:
        """It merges anew for each token: to generate more than a few, merge once and use the model itself."""
        return self.base.hidden_states_cached(self.merge(params), tokens, cache, **options)

    def num_params(self, vocab_size: int) -> int:
        shapes = jax.eval_shape(lambda: self.init(vocab_size, key=jax.random.key(0)))
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))

    def flops_per_token(self, vocab_size: int, seq_len: int) -> float:
        """Of the model itself: gradients of the merged matrices are formed too, and forming the sum is not counted."""
        return self.base.flops_per_token(vocab_size, seq_len)

    def weight_decay_mask(self, params: LoraParams) -> dict[str, Any]:
        """True for each matrix of the adapter; of the trained part alone."""
        return jax.tree.map(lambda leaf: True, params.adapter)
