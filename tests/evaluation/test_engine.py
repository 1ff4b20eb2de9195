"""However requests are packed and whatever shares the work, they score as one at a time.

That every architecture does so is one of the contracts of models.
"""

import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin.evaluation.engine import Engine
from marin.evaluation.packing import Scored, plan
from marin.models import lm
from marin.models.gpt2 import Gpt2Config

ROOT = Path(__file__).resolve().parents[2]
VOCAB = 61
SEQ_LEN = 160
CONFIG = Gpt2Config(seq_len=SEQ_LEN, hidden_dim=24, num_heads=3, num_layers=2, intermediate_dim=40)
TOKENS_PER_BATCH = 256

jitted_logits = jax.jit(lm.logits, static_argnums=0)


def requests_of_all_kinds() -> list[Scored]:
    """Questions behind the same examples, with several choices; texts of any length, cut ones too; and repetitions."""
    rng = np.random.default_rng(0)
    examples = rng.integers(0, VOCAB, 60)
    requests = []
    for _ in range(70):
        context = np.concatenate([examples, rng.integers(0, VOCAB, rng.integers(5, 30))])
        for size in rng.integers(1, 6, 4):
            whole = np.concatenate([context, rng.integers(0, VOCAB, size)]).astype(np.int32)
            requests.append(Scored(tokens=whole[:-1], targets=whole[-size:]))
    for size in (2, 3, 50, 64, 65, 150, SEQ_LEN + 1):
        whole = rng.integers(0, VOCAB, size).astype(np.int32)
        requests.append(Scored(tokens=whole[:-1], targets=whole[-(size // 2) :]))
    return [*requests, requests[0], requests[-1]]


REQUESTS = requests_of_all_kinds()


@pytest.fixture(autouse=True, scope="module")
def compiled_quickly():
    """Programs of this module run once or twice, so optimizing them would cost more than it gives."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def params():
    random = np.random.default_rng(1)
    shapes = jax.eval_shape(functools.partial(CONFIG.init, VOCAB), key=jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(0.3 * random.standard_normal(x.shape, np.float32)), shapes)


@functools.cache
def scored_together():
    done: list[tuple[int, int]] = []
    engine = Engine(config=CONFIG, params=params(), tokens_per_batch=TOKENS_PER_BATCH)
    return engine.score(REQUESTS, lambda *counts: done.append(counts)), done


def test_the_requests_need_trees_of_several_sizes_and_a_prefix():
    groups = plan(REQUESTS, row_len=TOKENS_PER_BATCH, num_rows=1)
    assert {len(group.prefix) for group in groups} == {0, 60}
    assert len({group.reach for group in groups}) > 1
    assert any(len(row) > 1 for group in groups for row in group.rows)


def test_a_text_cut_to_what_the_model_reads_is_scored_as_it_is_alone():
    scored, _ = scored_together()
    for index in (-3, 0, 100):
        request = REQUESTS[index]
        size = len(request.tokens)
        tokens = np.zeros((1, SEQ_LEN), np.int32)
        tokens[0, :size] = request.tokens
        logits = np.asarray(jitted_logits(CONFIG, params(), tokens), np.float64)[0, size - len(request.targets) : size]
        expected = logits[np.arange(len(logits)), request.targets] - np.log(np.exp(logits).sum(axis=-1))
        np.testing.assert_allclose(scored[index][0], expected, atol=1e-4)


def test_what_is_asked_twice_is_answered_twice():
    scored, done = scored_together()
    for one, other in ((0, -2), (-3, -1)):
        np.testing.assert_array_equal(scored[one][0], scored[other][0])
    assert done[-1] == (len(REQUESTS), len(REQUESTS))
    assert [num for num, _ in done] == sorted(num for num, _ in done)


def test_company_does_not_change_a_score():
    scored, _ = scored_together()
    chosen = list(range(0, len(REQUESTS), 7))
    engine = Engine(config=CONFIG, params=params(), tokens_per_batch=TOKENS_PER_BATCH)
    for index, (log_probs, _) in zip(chosen, engine.score([REQUESTS[i] for i in chosen]), strict=True):
        np.testing.assert_allclose(log_probs, scored[index][0], atol=1e-4)


def test_of_equally_probable_tokens_the_lowest_id_is_the_greedy_one():
    zeros = jax.tree.map(jnp.zeros_like, params())  # every logit 0
    requests = [Scored(tokens=np.arange(3, dtype=np.int32), targets=np.array([t], np.int32)) for t in (0, 1, 60)]
    scored = Engine(config=CONFIG, params=zeros, tokens_per_batch=TOKENS_PER_BATCH).score(requests)
    assert [bool(greedy[0]) for _, greedy in scored] == [True, False, False]
    np.testing.assert_allclose([log_probs[0] for log_probs, _ in scored], -np.log(VOCAB), atol=1e-5)


def test_four_devices_share_the_rows_and_score_the_same():
    code = """
        import jax, numpy as np
        from marin.distributed.config import MeshConfig
        from marin.distributed.mesh import make_mesh, use_mesh
        from marin.evaluation.scoring import Request, log_likelihoods, score_rows, scored_model
        from test_engine import CONFIG, REQUESTS, VOCAB, params

        jax.config.update("jax_disable_most_optimizations", True)
        mesh = make_mesh(MeshConfig())
        assert mesh.devices.size == 4
        one = scored_model(CONFIG, params(), VOCAB, 1024)
        with use_mesh(mesh):
            four = scored_model(CONFIG, params(), VOCAB, 1024)
        assert one.request_scorer.mesh is None and four.request_scorer.mesh == mesh
        found = [model.request_scorer.score(REQUESTS[:281]) for model in (one, four)]
        for (a, greedy), (b, other) in zip(*found, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
            assert greedy.tolist() == other.tolist()
        sharded = four.request_scorer.params.embedding.sharding
        assert len(sharded.device_set) == 4
        rows = [(np.arange(size, dtype=np.int32), np.arange(size, dtype=np.int32)) for size in (5, 9, 12)]
        for a, b in zip(*(score_rows(model, rows) for model in (one, four)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
        print("same")
    """
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": f"{ROOT / 'src'}:{Path(__file__).parent}",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "same"
