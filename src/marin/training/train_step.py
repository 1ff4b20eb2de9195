"""One update, one compiled program.

Forward, backward, the sum over microbatches, clipping and the optimizer are a single `jax.jit` whose state is donated,
so parameters are updated in place. Microbatch gradients are summed, and divided by the weight of the whole batch once.
The learning rate is an argument (see `marin.optim.schedules`). The numbers to log come back as one small array: the
loop fetches it later, when it is ready anyway.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from marin.distributed.mesh import by_microbatch_rows, everywhere
from marin.models.config import AuxiliaryLossConfig, LmConfig, trained_part, with_trained_part
from marin.optim.optimizer import gradient_norm, update_parameters
from marin.optim.skip import SkipBadSteps
from marin.training.loss import LossSums, next_token_loss
from marin.training.state import TrainState
from marin.training.watch_statistics import Watched, watch_statistics

METRICS = ("train/loss", "train/grad_norm", "train/total_loss")
"""Names of the numbers a step returns, in their order. Without z-loss and auxiliary loss the last equals the first."""

SKIPPED = "train/skipped"
"""The number that follows where outliers are skipped: 1 for an update that was, else 0."""


TRAINED = ("train/trained_tokens", "train/trained_stops")
"""The numbers that follow where conversations are trained on: targets that count, and ends of turns among them. A model
does not learn to stop where the second is 0."""


class DeviceBatch(NamedTuple):
    """What the loss reads of a batch; `marin.data.dataset.Batch` describes each."""

    tokens: Int[Array | np.ndarray, "batch seq"]
    targets: Int[Array | np.ndarray, "batch seq"]
    loss_weights: Float[Array | np.ndarray, "batch seq"]
    segment_ids: Int[Array | np.ndarray, "batch seq"] | None


TrainStep = Callable[[TrainState, DeviceBatch, float], tuple[TrainState, Float[Array, " metrics"]]]

WatchedStep = Callable[[TrainState, DeviceBatch, float], tuple[TrainState, Float[Array, " metrics"], Watched]]
"""A step that gives also what `marin.training.watch` measures."""


def loss_sums(
    model: LmConfig,
    params: Any,
    batch: DeviceBatch,
    *,
    compute_dtype: Any = jnp.float32,
    z_loss_weight: float = 0.0,
    remat: str = "none",
    attention: str | None = None,
    logits_dtype: Any = None,
) -> LossSums:
    """Weighted sums of the loss of `params` over a batch.

    An auxiliary loss of the model is added to `total`, as if each token had it. It is of this batch as a whole, so
    microbatches, each balanced for itself, give it another value than the batch at once.
    """
    options = {"segment_ids": batch.segment_ids, "compute_dtype": compute_dtype, "remat": remat}
    if attention is not None:
        options["attention"] = attention
    auxiliary = None
    if isinstance(model, AuxiliaryLossConfig):
        states, auxiliary = model.hidden_states_and_auxiliary_loss(params, batch.tokens, **options)
    else:
        states = model.hidden_states(params, batch.tokens, **options)
    sums = next_token_loss(
        states,
        model.unembedding(params),
        batch.targets,
        batch.loss_weights,
        z_loss_weight=z_loss_weight,
        logit_softcap=model.final_logit_softcap,
        logits_dtype=logits_dtype,
    )
    if auxiliary is None:
        return sums
    return sums._replace(total=sums.total + auxiliary * jnp.sum(batch.loss_weights))


def loss_gradient(
    model: LmConfig, params: Any, batch: DeviceBatch, *, num_microbatches: int = 1, **loss_options: Any
) -> tuple[Any, LossSums]:
    """Gradient of the summed loss by what is trained, and the sums, over microbatches of equally many rows.

    Rows `0 .. B / num_microbatches - 1` are the first microbatch, and so on. Equal to the whole batch at once but for
    the order of summation.
    """

    def of_microbatch(microbatch: DeviceBatch) -> tuple[Any, LossSums]:
        def total(trained: Any) -> tuple[Array, LossSums]:
            sums = loss_sums(model, with_trained_part(model, params, trained), microbatch, **loss_options)
            return sums.total, sums

        return jax.grad(total, has_aux=True)(trained_part(model, params))

    if num_microbatches == 1:
        return of_microbatch(batch)
    split = by_microbatch_rows(jax.tree.map(lambda a: a.reshape(num_microbatches, -1, *a.shape[1:]), batch))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(of_microbatch, _first(split)))

    def add(sums: Any, microbatch: DeviceBatch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, of_microbatch(microbatch)), None

    return jax.lax.scan(add, zeros, split)[0]


def make_train_step(
    model: LmConfig,
    transformation: optax.GradientTransformation,
    *,
    max_grad_norm: float | None,
    num_microbatches: int = 1,
    compute_dtype: Any = jnp.float32,
    z_loss_weight: float = 0.0,
    remat: str = "none",
    attention: str | None = None,
    ema_beta: float | None = None,
    skip: SkipBadSteps | None = None,
    stop_id: int | None = None,
    is_watched: bool = False,
    shardings: TrainState | None = None,
) -> "CompiledStep":
    """The compiled step: (state, batch, learning rate) -> (new state, numbers named in `METRICS`).

    The state passed in is donated: its arrays are gone afterwards. With `ema_beta` the state has an average, which
    becomes `ema_beta * average + (1 - ema_beta) * params`; with `skip` it has a window, and `SKIPPED` follows; with
    `stop_id`, the token that ends a turn, the numbers end with `TRAINED`. With `is_watched` the step gives a third
    value, `marin.training.watch_statistics.Watched`: another program, which keeps the parameters before the update
    until those after it are there. On a mesh `shardings` says where each array of the state lies, before and after.
    """
    loss_options: dict[str, Any] = {"compute_dtype": compute_dtype, "z_loss_weight": z_loss_weight, "remat": remat}
    loss_options["attention"] = attention

    def train_step(state: TrainState, batch: DeviceBatch, learning_rate: Array) -> tuple:
        gradient, sums = loss_gradient(model, state.params, batch, num_microbatches=num_microbatches, **loss_options)
        if shardings is not None:
            gradient = jax.lax.with_sharding_constraint(gradient, trained_part(model, shardings.params))
        weight = _total_weight(batch, sums.nll.dtype)
        norm = gradient_norm(gradient, weight)
        metrics = jnp.stack([sums.nll / weight, norm, sums.total / weight])

        def updated(state: TrainState) -> TrainState:
            trained, optimizer, _ = update_parameters(
                transformation,
                max_grad_norm,
                trained_part(model, state.params),
                state.optimizer,
                gradient,
                weight,
                learning_rate,
                norm=norm,
                objective=partial(
                    _mean_loss, model, state.params, batch=_first_microbatch(batch, num_microbatches), **loss_options
                ),
            )
            params = with_trained_part(model, state.params, trained)
            average = state.average if ema_beta is None else _moved(state.average, params, ema_beta)
            return replace(state, params=params, optimizer=optimizer, average=average)

        if skip is None:
            after = updated(state)
        else:
            is_bad, window = skip.judge(state.skip_window, sums.total / weight, norm)
            after = replace(jax.lax.cond(is_bad, lambda state: state, updated, state), skip_window=window)
            metrics = jnp.append(metrics, is_bad.astype(metrics.dtype))
        if stop_id is not None:
            metrics = jnp.concatenate([metrics, _trained(batch, stop_id).astype(metrics.dtype)])
        metrics = everywhere(metrics)
        if not is_watched:
            return after, metrics
        mean_gradient = jax.tree.map(lambda g: g / weight, gradient)
        before_and_after = (trained_part(model, params) for params in (state.params, after.params))
        return after, metrics, everywhere(watch_statistics(mean_gradient, *before_and_after))

    if shardings is None:
        return CompiledStep(jax.jit(train_step, donate_argnums=0))
    others = (None,) * (2 if is_watched else 1)  # the compiler's choice
    return CompiledStep(jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, *others)))


class CompiledStep:
    """A step that compiles itself for each new shape of its arguments; the learning rate is a Python number."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def __call__(self, state: TrainState, batch: DeviceBatch, learning_rate: float) -> Any:
        return self._compiled(state, batch, np.float32(learning_rate))

    def program(self, state: TrainState, batch: DeviceBatch) -> str:
        """The lowered program for arguments of these shapes, StableHLO as text."""
        return self._compiled.lower(state, batch, np.float32(0.0)).as_text()


def _moved(average: Any, params: Any, beta: float) -> Any:
    return jax.tree.map(lambda a, p: beta * a + (1 - beta) * p, average, params)


def _total_weight(batch: DeviceBatch, dtype: Any) -> Array:
    """The bound gives a batch of nothing but padding a gradient of zero instead of NaN."""
    return jnp.maximum(jnp.sum(batch.loss_weights, dtype=dtype), 1e-9)


def _trained(batch: DeviceBatch, stop_id: int) -> Array:
    """(targets that count, those of them that end a turn)."""
    counts = batch.loss_weights > 0
    return jnp.stack([jnp.sum(counts), jnp.sum(counts & (batch.targets == stop_id))])


def _mean_loss(model: LmConfig, params: Any, trained: Any, *, batch: DeviceBatch, **loss_options: Any) -> Array:
    """What the optimizer descends, for one that asks for more than the gradient of it."""
    total = loss_sums(model, with_trained_part(model, params, trained), batch, **loss_options).total
    return total / _total_weight(batch, total.dtype)


def _first_microbatch(batch: DeviceBatch, num_microbatches: int) -> DeviceBatch:
    return jax.tree.map(lambda a: a[: a.shape[0] // num_microbatches], batch)


def _first(stacked: DeviceBatch) -> DeviceBatch:
    return jax.tree.map(lambda a: a[0], stacked)
