"""Score requests on a language model: trees in packed rows, shared prefixes in a cache, logits only where asked for.

What is read once for whom is planned in `marin.evaluation.packing`; here it is computed. A row is one device's share of
a batch, as long as the tokens that a batch may have, and holds whatever trees fit. So a run compiles one program for
each size of tree (a power of two), for each size of prefix (another), and none for the number of requests or answers.
Layers are scanned, as that compiles in half the time and runs no slower here. A batch is handed to the device before
the one before it is fetched.
"""

import functools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Float32, Int

from marin.distributed.mesh import by_rows, everywhere, num_batch_shards, place_rows, round_up_rows, use_mesh
from marin.evaluation.packing import Batch, Scored, batches, plan
from marin.models import lm
from marin.models.trees import TokenTrees

_IN_FLIGHT = 2
_SMALLEST_PREFIX = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Engine:
    """A model and how its requests are scored."""

    config: Any
    """Its `LmConfig`."""
    params: Any
    """Its parameters, wherever they lie on the mesh."""
    tokens_per_batch: int
    """Tokens that all devices together read at once; more where a single request has more."""
    compute_dtype: Any = "float32"
    mesh: Mesh | None = None
    """Devices that share each batch; None: one."""

    def score(
        self, requests: Sequence[Scored], progress: Callable[[int, int], None] | None = None
    ) -> list[tuple[Float32[np.ndarray, " targets"], Bool[np.ndarray, " targets"]]]:
        """Of each target of each request: its log-probability, and whether no token is more probable."""
        results: list[Any] = [None] * len(requests)
        waiting: deque[tuple[Batch, Any]] = deque()
        num_done = 0

        def fetch() -> None:
            nonlocal num_done
            batch, scores = waiting.popleft()
            log_probs, greedy = (np.asarray(part).reshape(len(batch.tokens), -1) for part in scores)
            for request, row, where in batch.answers:
                results[request] = log_probs[row, where], greedy[row, where]
            num_done += len(batch.answers)
            if progress is not None:
                progress(num_done, len(requests))

        num_rows = num_batch_shards(self.mesh)
        longest = max((len(request.tokens) for request in requests), default=1)
        row_len = max(self.tokens_per_batch // num_rows, _power_of_two(longest))
        prefix: tuple[Any, int] | None = None
        prefix_tokens = np.zeros(0, np.int32)
        with use_mesh(self.mesh):
            for group in plan(requests, row_len=row_len, num_rows=num_rows):
                if not np.array_equal(group.prefix, prefix_tokens):
                    prefix_tokens = group.prefix
                    prefix = self._read(prefix_tokens) if len(prefix_tokens) else None
                for batch in batches(group, requests, num_rows=num_rows, chunk=lm.ENTRIES_AT_ONCE):
                    waiting.append((batch, self._start(batch, group.reach, prefix)))
                    if len(waiting) > _IN_FLIGHT:
                        fetch()
            while waiting:
                fetch()
        return results

    def _read(self, prefix: np.ndarray) -> tuple[Any, int]:
        """The cache that a prefix leaves, and how many slots of it are filled."""
        size = min(max(_SMALLEST_PREFIX, _power_of_two(len(prefix))), self.config.seq_len)
        tokens = np.zeros((1, size), np.int32)
        tokens[0, : len(prefix)] = prefix
        return _prefix_cache(self.config, self.compute_dtype, self.params, tokens), len(prefix)

    def _start(self, batch: Batch, reach: int, prefix: tuple[Any, int] | None) -> Any:
        """Log-probabilities and greediness (rows, entries, targets) of a batch, when the devices will have them."""
        rows = (batch.tokens, batch.positions, batch.ends, batch.places, batch.targets)
        placed = place_rows(rows, self.mesh, len(batch.tokens))
        cache, cache_len = (None, None) if prefix is None else prefix
        return _score(
            self.config, self.compute_dtype, reach, self.params, *placed, np.int32(batch.num_entries), cache, cache_len
        )


def on_mesh(params: Any, mesh: Mesh | None) -> Any:
    """The parameters as they are, if they lie on the mesh's devices or there is none; else a copy on each device."""
    if mesh is None:
        return params
    devices = set(mesh.devices.flat)
    if all(isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices for leaf in jax.tree.leaves(params)):
        return params
    return jax.device_put(params, NamedSharding(mesh, PartitionSpec()))


def row_scorer(config: Any, params: Any, *, compute_dtype: Any, mesh: Mesh | None) -> Callable[[Any, Any], np.ndarray]:
    """(tokens, targets) int32 (rows, seq) -> log-probability of each target, float32; the devices share the rows."""

    def score(tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        num_rows = round_up_rows(len(tokens), mesh)
        missing = ((0, num_rows - len(tokens)), (0, 0))
        with use_mesh(mesh):
            rows = place_rows((np.pad(tokens, missing), np.pad(targets, missing)), mesh, num_rows)
            return np.asarray(_token_log_probs(config, compute_dtype, params, *rows))[: len(tokens)]

    return score


@functools.partial(jax.jit, static_argnums=(0, 1))
def _token_log_probs(
    config: Any, compute_dtype: Any, params: Any, tokens: Int[Array, "rows seq"], targets: Int[Array, "rows seq"]
) -> Float[Array, "rows seq"]:
    return everywhere(lm.token_log_probs(config, params, tokens, targets, compute_dtype=compute_dtype))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _prefix_cache(config: Any, compute_dtype: Any, params: Any, tokens: Int[Array, "1 seq"]) -> Any:
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    cache = config.init_cache(1, tokens.shape[1], compute_dtype)
    _, cache = config.hidden_states_cached(params, tokens, cache, positions=positions, compute_dtype=compute_dtype)
    return everywhere(cache)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _score(
    config: Any,
    compute_dtype: Any,
    reach: int,
    params: Any,
    tokens: Int[Array, "rows seq"],
    positions: Int[Array, "rows seq"],
    ends: Int[Array, "rows seq"],
    places: Int[Array, "rows entries"],
    targets: Int[Array, "rows entries targets"],
    num_entries: Int[Array, ""],
    cache: Any,
    cache_len: Int[Array, ""] | None,
) -> tuple[Float[Array, "rows entries targets"], Bool[Array, "rows entries targets"]]:
    trees = TokenTrees(ends=ends, positions=positions, reach=reach, prefix=cache, prefix_len=cache_len)
    states = config.hidden_states(
        params, tokens, positions=positions, trees=trees, compute_dtype=compute_dtype, scan_layers=True
    )
    return everywhere(lm.scores_at(config, params, by_rows(states), places, targets, num_entries))


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
