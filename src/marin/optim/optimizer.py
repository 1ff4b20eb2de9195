"""Summed gradients in, new parameters out.

An optimizer is a config that offers a learning-rate schedule and an optax transformation. The transformation gives the
direction of descent without the learning rate; `update_parameters` clips, steps against it, and reports the gradient's
norm. All knobs of the update, clipping included, live in that one config.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from marin.config import register_choice
from marin.optim.schedules import Schedule

if TYPE_CHECKING:
    import jax
    import optax


@runtime_checkable
class OptimizerConfig(Protocol):
    """What every optimizer's config offers. It can be built and hashed without jax."""

    @property
    def learning_rate(self) -> float:
        """Peak learning rate."""
        ...

    @property
    def max_grad_norm(self) -> float | None:
        """Longest l2 norm of the whole gradient; None never clips."""
        ...

    def schedule(self, num_train_steps: int) -> Schedule:
        """Learning rate by number of updates done."""
        ...

    def transformation(self, decay_mask: Any, direction_scale: Any = None) -> "optax.GradientTransformation":
        """Gradients to the direction that the learning rate scales; the update subtracts it.

        `decay_mask` is a pytree of bool like the parameters: which of them weight decay pulls to zero.
        `direction_scale` is one of numbers that multiply the direction without the decay (`marin.optim.mup` makes it);
        None is 1. The transformation's update may take `obj_fn`: the mean loss as a function of the parameters.
        """
        ...


register_choice(OptimizerConfig, "adamw", "marin.optim.adamw:AdamWConfig")
register_choice(OptimizerConfig, "muon", "marin.optim.muon:MuonConfig")
register_choice(OptimizerConfig, "sophia_h", "marin.optim.sophia:SophiaHConfig")
register_choice(OptimizerConfig, "soap", "marin.optim.soap:SoapConfig")
register_choice(OptimizerConfig, "lion", "marin.optim.lion:LionConfig")
register_choice(OptimizerConfig, "adafactor", "marin.optim.adafactor:AdafactorConfig")


def gradient_norm(gradient_sum: Any, total_weight: "jax.Array") -> "jax.Array":
    """The l2 norm of the mean gradient, before clipping."""
    import optax

    return optax.tree.norm(gradient_sum) / total_weight


def update_parameters(
    transformation: "optax.GradientTransformation",
    max_grad_norm: float | None,
    params: Any,
    optimizer_state: Any,
    gradient_sum: Any,
    total_weight: "jax.Array",
    learning_rate: "jax.Array",
    *,
    norm: "jax.Array | None" = None,
    objective: Callable[[Any], "jax.Array"] | None = None,
) -> tuple[Any, Any, "jax.Array"]:
    """One update of the parameters, to be traced inside a compiled step.

    Args:
        transformation: what `OptimizerConfig.transformation` made.
        max_grad_norm: longest allowed l2 norm of the whole gradient; None never clips.
        params: pytree of arrays.
        optimizer_state: what `transformation.init(params)` or an earlier update gave.
        gradient_sum: like params; gradient of the weighted SUM of losses.
        total_weight: scalar, sum of the loss weights; the gradient used is `gradient_sum / total_weight`.
        learning_rate: scalar.
        norm: what `gradient_norm` gave, where it is known already.
        objective: the mean loss as a function of the parameters, for optimizers that look at its curvature.

    Returns:
        New parameters, new optimizer state, and the l2 norm of the gradient before clipping.
    """
    import jax
    import jax.numpy as jnp
    import optax

    if norm is None:
        norm = gradient_norm(gradient_sum, total_weight)
    clip = 1.0 if max_grad_norm is None else jnp.where(norm > max_grad_norm, max_grad_norm / norm, 1.0)
    scale = clip / total_weight  # one factor for mean and clip: no extra pass over the gradient
    gradient = jax.tree.map(lambda g: g * scale.astype(g.dtype), gradient_sum)
    transformation = optax.with_extra_args_support(transformation)
    direction, optimizer_state = transformation.update(gradient, optimizer_state, params, obj_fn=objective)
    params = jax.tree.map(lambda p, d: (p - learning_rate * d).astype(p.dtype), params, direction)
    return params, optimizer_state, norm
