"""Which updates to skip: those whose loss or gradient norm is far above what it has lately been.

One bad batch can undo thousands of updates; the rule is that of OLMo 2 (arXiv:2501.00656) and Levanter. With mean `m`
and standard deviation `s` over the last `window` updates (skipped ones included, so that a lasting change is accepted
in the end), an update is skipped where

    loss > m_loss + sigma * s_loss    or    norm > m_norm + sigma * s_norm

once half of the window is filled. It is decided on the device, within the step, and nobody waits for it. A skipped
update leaves parameters, optimizer and average as they were, and counts as an update everywhere else: the data goes on
to the next batch. A loss that is no number is not skipped: it ends the run, as it does without this.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True, kw_only=True)
class SkipBadSteps:
    """The rule of the module's docstring."""

    window: int = 128
    """Updates looked back on."""
    sigma: float = 6.0
    """Standard deviations above the mean from which on an update is skipped."""

    def __post_init__(self) -> None:
        if self.window < 4:
            raise ValueError(f"window must be 4 updates or more, got {self.window!r}")
        if not self.sigma > 0:
            raise ValueError(f"sigma must be more than 0, got {self.sigma!r}")

    def init(self) -> "SkipWindow":
        """An empty window."""
        import jax.numpy as jnp

        return SkipWindow(jnp.zeros(self.window), jnp.zeros(self.window), jnp.zeros([], jnp.int32))

    def judge(self, seen: "SkipWindow", loss: "jax.Array", norm: "jax.Array") -> "tuple[jax.Array, SkipWindow]":
        """Whether to skip (a scalar bool), and the window with this update in it."""
        import jax.numpy as jnp

        filled = jnp.minimum(seen.count, self.window)
        is_seen = jnp.arange(self.window) < filled

        def is_outlier(values: Any, value: Any) -> Any:
            mean = jnp.mean(values, where=is_seen)
            return value > mean + self.sigma * jnp.std(values, where=is_seen)

        is_bad = (is_outlier(seen.losses, loss) | is_outlier(seen.norms, norm)) & (filled >= self.window // 2)
        place = seen.count % self.window
        return is_bad, SkipWindow(seen.losses.at[place].set(loss), seen.norms.at[place].set(norm), seen.count + 1)


class SkipWindow(NamedTuple):
    """Losses and gradient norms of the last updates, the oldest overwritten first."""

    losses: "jax.Array"
    norms: "jax.Array"
    count: "jax.Array"
