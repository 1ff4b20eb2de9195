"""muP: learning rate and initial scale found on a narrow model, carried over to a wide one.

Source: Yang et al. 2022, arXiv:2203.03466, table 3 (the form without multipliers in the model), for Adam and optimizers
whose updates are about as large in every element. With `r` = fan-in of a parameter / its fan-in in the base model:

                          initial standard deviation    learning rate
    hidden matrices       times 1 / sqrt(r)             times 1 / r
    unembedding, routers  times 1 / r                   times 1 / r
    embedding             times 1 / m                   times 1 / m
    all else              unchanged                     unchanged

`m` is 1 but for a model that multiplies its embeddings by a factor of its width: that factor / the base model's, so
that what enters the first layer is, and moves, as in the base model. The base's own settings are those at r = 1.
Weight decay is not scaled: it stays `learning_rate * weight_decay`. Only widths may differ. Heads must be as wide as
the base model's (more of them instead), which makes the attention's 1/sqrt(head_dim) the constant that muP wants; and
the unembedding cannot be the embedding, since the two scale differently. Which axes are a parameter's fan-in is read
from its annotation, see `marin.optim.matrices`.
"""

from typing import Any, NamedTuple

import jax

from marin.optim.matrices import axis_names, input_axes


class MupScales(NamedTuple):
    """Trees like the parameters, of floats."""

    init: Any
    """Multiplies the initial parameters."""
    learning_rate: Any
    """Multiplies the optimizer's direction (`direction_scale`)."""


def mup_scales(params: Any, base_params: Any, *, embedding_ratio: float = 1.0) -> MupScales:
    """Scales of `params` with respect to the parameters of the base model; both may be shapes.

    `embedding_ratio` is m of the table above (`marin.models.config.embedding_multiplier` of the two).

    Raises ValueError where the two differ in more than width, or the base model ties its unembedding.
    """
    structure = jax.tree.structure(params)
    if structure != jax.tree.structure(base_params):
        raise ValueError("the muP base model has other parameters than the model; it may only differ in its widths")
    init, rate, has_unembedding = [], [], False
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(base_params), axis_names(params), strict=True)
    for leaf, base, names in leaves:
        if names is None:
            raise ValueError("muP reads fan-in from the annotations of a model's parameters, and this one has none")
        _check_axes(names, leaf.shape, base.shape)
        is_unembedding = names == ("hidden", "vocab")
        has_unembedding |= is_unembedding
        is_output = is_unembedding or names[-2:] == ("hidden", "experts")
        inputs = (0,) if is_unembedding else () if "vocab" in names or "positions" in names else input_axes(names)
        ratio = 1.0
        for axis in inputs:
            ratio *= leaf.shape[axis] / base.shape[axis]
        if names == ("vocab", "hidden"):
            init.append(1 / embedding_ratio)
            rate.append(1 / embedding_ratio)
            continue
        init.append(1 / ratio if is_output else ratio**-0.5)
        rate.append(1 / ratio)
    if not has_unembedding:
        raise ValueError("muP scales embedding and unembedding differently: set tie_word_embeddings to false")
    return MupScales(structure.unflatten(init), structure.unflatten(rate))


_SAME = ("layers", "experts", "vocab", "positions", "head_dim")


def _check_axes(names: tuple[str, ...], shape: tuple[int, ...], base: tuple[int, ...]) -> None:
    for name, length, base_length in zip(names, shape, base, strict=True):
        if name in _SAME and length != base_length:
            raise ValueError(
                f"muP carries over between widths alone, but '{name}' is {length} in the model and {base_length} in "
                "its base. Give them the same."
            )
