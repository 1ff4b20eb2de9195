"""Norms and histograms of gradient, parameters and update, parameter by parameter, inside the compiled step.

For a parameter w (all layers' together, as they are stacked), the gradient g of the mean loss before clipping, and
w' after the update:

    norm of the gradient     sqrt(sum g^2)
    norm of the parameters   sqrt(sum w'^2)
    norm of the update       sqrt(sum (w' - w)^2), learning rate and weight decay included

A histogram counts magnitudes by powers of two: bin i holds the entries with 2^(i + LOWEST) <= |x| < 2^(i + LOWEST + 1),
the first bin also all that is smaller, zeros too, and the last all that is larger. Fixed bins can be compared between
steps and runs, and show at a glance what falls below a dtype's range. Their price is that they say nothing of signs.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

LOWEST, HIGHEST = -40, 15
"""Exponents of two of the first and the last bin."""
NUM_BINS = HIGHEST - LOWEST + 1


class Watched(NamedTuple):
    """What is measured, each a mapping from a parameter's place in the tree, like `blocks.wqkv`."""

    grad_norm: dict[str, Float[Array, ""]]
    param_norm: dict[str, Float[Array, ""]]
    update_norm: dict[str, Float[Array, ""]]
    grad_histogram: dict[str, Int[Array, " bins"]]
    param_histogram: dict[str, Int[Array, " bins"]]
    update_histogram: dict[str, Int[Array, " bins"]]


def watch_statistics(gradient: Any, params: Any, new_params: Any) -> Watched:
    """Statistics of three trees of the same parameters: mean gradient, parameters before, parameters after."""
    trees = [_by_name(tree) for tree in (gradient, new_params, jax.tree.map(jnp.subtract, new_params, params))]
    norms = [{name: jnp.sqrt(jnp.sum(jnp.square(x))) for name, x in tree.items()} for tree in trees]
    histograms = [{name: magnitude_histogram(x) for name, x in tree.items()} for tree in trees]
    return Watched(*norms, *histograms)


def magnitude_histogram(x: Float[Array, "..."]) -> Int[Array, " bins"]:
    """Counts of the entries by the exponent of their magnitude, int32[NUM_BINS]."""
    _, exponent = jnp.frexp(x.ravel())  # |x| = m 2^e with 1/2 <= m < 1, so floor(log2 |x|) is e - 1, exactly
    exponent = jnp.where(x.ravel() == 0, LOWEST, exponent - 1)
    bins = jnp.clip(exponent - LOWEST, 0, NUM_BINS - 1)
    return jnp.zeros(NUM_BINS, jnp.int32).at[bins].add(1)


def _by_name(tree: Any) -> dict[str, Array]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }
