"""Tootsie: the 8B run plans in full with its published numbers, and its twin runs through every hand-over."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin.checkpoint import format as checkpoint
from marin.config import load_yaml
from marin.data.at_step import rows_at_update
from marin.data.batch_schedule import BatchSchedule
from marin.data.lm_data import open_data
from marin.data.loader import DataLoader
from marin.distributed.compilation_cache import use_compilation_cache
from marin.execution.executor import Executor, plan
from marin.models.lm import token_log_probs
from marin.tracking.jsonl import read_rows
from marin.training.config import TrainLmConfig
from marin.training.train_lm import train_lm

LINE = ("kestrel", "ocelot", "jellyfish", "phoenix", "starling", "deeper-starling")
DESSERTS = {"raccoon": "jellyfish", "spoonbill": "jellyfish", "spoonbill-zloss": "spoonbill"}
FORMER = {**dict(zip(LINE[1:], LINE, strict=False)), **DESSERTS}
"""Phase -> the one whose state it goes on with."""


@pytest.fixture(scope="module")
def experiments(repository: Path):
    """The two scripts, as modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository))
        from experiments.tootsie import exp600_tootsie, exp600_twin

        yield exp600_tootsie, exp600_twin


# -- the 8B run --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(experiments) -> dict[str, TrainLmConfig]:
    tootsie = experiments[0]
    return {phase: step.config for phase, step in tootsie.tootsie(tootsie.published()).items()}


def test_the_whole_line_is_planned_from_the_downloads_on(experiments, tmp_path: Path):
    tootsie = experiments[0]
    steps = tootsie.tootsie(tootsie.published())
    assert set(steps) == {*LINE, *DESSERTS, "softer-raccoon"}
    names = [item.node.name for item in plan(list(steps.values()), prefix=str(tmp_path)).items]
    assert [name for name in names if name.startswith("checkpoints/")] == [
        f"checkpoints/tootsie-8b-{phase}" for phase in steps
    ]
    trained_on = {f"tokenized/{name}" for name in tootsie.SET_NAMES}
    assert trained_on <= set(names) and {"raw/nemotron_cc", "raw/dolma/wiki", "tokenizers/llama3"} <= set(names)


@pytest.mark.parametrize(
    ("phase", "rates"),
    [
        # Kestrel decays for 1,000 of every 10,000 updates, from 200,000 on for 2,000 of 20,000
        ("kestrel", {5_000: 1e-3, 8_999: 1e-3, 9_999: 1e-4, 10_000: 1e-3, 217_999: 1e-3, 659_999: 1e-4}),
        ("ocelot", {660_000: 1.7e-3, 740_499: 1.7e-3}),
        ("jellyfish", {740_500: 1.7e-3, 780_250: 0.935e-3, 819_999: 1.7e-4}),
        ("phoenix", {820_000: 1.7e-4, 822_000: 1.7e-3, 1_319_999: 1.7e-3}),
        ("starling", {1_320_000: 1.7e-3, 1_399_999: 1.7e-5}),
        ("deeper-starling", {1_400_000: 1.7e-5, 1_419_999: 1.7e-5}),
        ("raccoon", {820_000: 1.7e-4, 829_999: 1.7e-5}),
        ("softer-raccoon", {0: 1.7e-5, 9_999: 1e-6}),
        ("spoonbill", {820_000: 1.7e-4, 829_999: 2.75e-5}),
    ],
)
def test_the_rate_of_a_phase_is_the_published_one(published, phase, rates):
    config = published[phase]
    schedule = config.optimizer.schedule(config.trainer.num_train_steps)
    for step, rate in rates.items():
        assert schedule(step) == pytest.approx(rate, rel=0.01), f"update {step:,}"


def test_phases_end_after_the_published_numbers_of_tokens(published):
    """Trillions, from the retrospective: Kestrel to 2.77, Ocelot to 3.78, Jellyfish to 4.78, and so on."""
    ends = {phase: published[phase].trainer.num_train_steps for phase in LINE}
    tokens = {phase: published[phase].trainer.batches.offset(end) * 4096 / 1e12 for phase, end in ends.items()}
    expected = {"kestrel": 2.77, "ocelot": 3.78, "jellyfish": 4.78, "phoenix": 11.1, "starling": 12.4}
    assert tokens == pytest.approx({**expected, "deeper-starling": 12.75}, abs=0.04)


def test_the_mixtures_have_the_published_shares(experiments):
    """Per cent, from the retrospective's tables."""
    tootsie = experiments[0]
    jellyfish = {
        "dolmino/dclm": 67.8,
        "dolma/pes2o": 10.8,
        "finemath_3_plus": 6.3,
        "dolma/arxiv": 5.2,
        "dolma/stackexchange": 3.2,
        "starcoderdata": 2.2,
        "dolma/algebraic-stack": 2.1,
        "dolma/open-web-math": 0.9,
        "dolma/megawika": 0.8,
        "dolma/wiki": 0.7,
    }
    starling = {
        "nemotron_cc/medium": 22.1,
        "nemotron_cc/hq_synth": 17.8,
        "nemotron_cc/medium_low": 10.1,
        "nemotron_cc/hq_actual": 6.0,
        "nemotron_cc/medium_high": 5.4,
        "nemotron_cc/low_actual": 4.6,
        "nemotron_cc/low_synth": 4.1,
        "arxiv_markdownified": 5.2,
        "dolmino/pes2o": 5.2,
        "starcoderdata": 4.5,
        "proofpile_2": 4.5,
        "finemath_3_plus": 3.0,
        "dolmino/flan": 3.0,
        "dolmino/stackexchange": 1.5,
        "stackexchange_custom": 1.5,
        "dolmino/all_math": 0.8,
        "wikipedia_markdown": 0.3,
        "dolmino/wiki": 0.3,
        "medu_science_qa": 0.1,
    }
    for weights, expected in ((tootsie.JELLYFISH_WEIGHTS, jellyfish), (tootsie.STARLING_WEIGHTS, starling)):
        assert tootsie.normalized(weights, 100.0) == pytest.approx(expected, abs=0.06)
    dclm = {"dclm_baseline": 92.6, "starcoderdata": 6.1, "proofpile_2": 1.3}
    assert tootsie.normalized(tootsie.DCLM_MIXTURE_WEIGHTS, 100.0) == pytest.approx(dclm, abs=0.06)


# -- the twin ----------------------------------------------------------------------------------------------------------


class Phase:
    """What a phase of the twin left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = load_yaml(TrainLmConfig, folder / "config.yaml")
        self.rows = {r["step"]: r for r in read_rows(folder / "metrics.jsonl") if "train/loss" in r}
        self.summary = json.loads((folder / "summary.json").read_text())
        self.model = json.loads((folder / "model.json").read_text())

    @property
    def start(self) -> int:
        return self.summary["start_step"]

    @property
    def end(self) -> int:
        return self.summary["final_step"]

    def array(self, prefix: str, step: int):
        """The parameters, or the average, that it saved."""
        shapes = jax.eval_shape(lambda: self.config.model.init(self.model["vocab_size"], key=jax.random.key(0)))
        return checkpoint.load(self.folder / f"checkpoints/step-{step:08d}", shapes, prefix)

    def count(self) -> int:
        """Updates that its AdamW has seen at the end."""
        folder = self.folder / f"checkpoints/step-{self.end:08d}"
        (name,) = [name for name in checkpoint.saved_arrays(folder) if name.endswith("count")]
        shape = checkpoint.saved_arrays(folder)[name]
        return int(checkpoint.load(folder, shape, prefix=name))

    def loader(self, first_step: int = 0) -> DataLoader:
        batches = BatchSchedule(self.config.trainer.train_batch_size, first_step=first_step)
        return DataLoader(open_data(self.config.data, self.config.model.seq_len, batches=batches).train, batches)

    def first_loss(self) -> float:
        """Loss of its first update, in nats a token."""
        return self.rows[self.start + 1]["train/loss"]

    def loss_with(self, params) -> float:
        """What the batch of its first update costs with these parameters."""
        batch = self.loader().batch(self.start)
        tokens, targets, segments = (jnp.asarray(a) for a in (batch.tokens, batch.targets, batch.segment_ids))
        log_probs = token_log_probs(self.config.model, params, tokens, targets, segment_ids=segments)
        return -float(np.average(np.asarray(log_probs, np.float64), weights=batch.loss_weights))

    def rows_of(self, update: int) -> list[tuple]:
        """Source and documents of each row of a batch."""
        return [(row.source, row.pieces) for row in rows_at_update(self.loader(), update)]


@pytest.fixture(scope="module")
def twin(experiments, tmp_path_factory) -> dict[str, Phase]:
    """Every phase, run."""
    use_compilation_cache()
    steps = experiments[1].twin(experiments[1].Twin(max_documents=300))
    executor = Executor(str(tmp_path_factory.mktemp("twin")), fsync=False, quiet=True)
    done = executor.run(list(steps.values()))
    assert done.is_ok
    return {phase: Phase(Path(done.output_path(step))) for phase, step in steps.items()}


@pytest.mark.slow
def test_updates_are_counted_through_all_phases(twin):
    counts = {phase: (twin[phase].start, twin[phase].end) for phase in twin}
    assert counts == {
        "kestrel": (0, 7),
        "ocelot": (7, 13),
        "jellyfish": (13, 19),
        "phoenix": (19, 25),
        "starling": (25, 31),
        "deeper-starling": (31, 37),
        "raccoon": (19, 25),
        "softer-raccoon": (0, 6),
        "spoonbill": (19, 25),
        "spoonbill-zloss": (22, 25),
    }
    for phase in twin.values():
        assert list(phase.rows) == list(range(phase.start + 1, phase.end + 1))


@pytest.mark.slow
def test_the_rate_goes_on_as_the_schedule_of_the_phase_says_from_its_first_update(twin):
    for phase in twin.values():
        schedule = phase.config.optimizer.schedule(phase.config.trainer.num_train_steps)
        rates = {step: row["train/learning_rate"] for step, row in phase.rows.items()}
        assert rates == {step: schedule(step - 1) for step in phase.rows}
    rates = {name: [row["train/learning_rate"] for row in twin[name].rows.values()] for name in twin}
    assert rates["jellyfish"][-1] < 0.3 * rates["jellyfish"][0] and rates["phoenix"][-1] == rates["jellyfish"][0]
    assert rates["phoenix"][:4] == sorted(rates["phoenix"][:4]), "it warms up again"


@pytest.mark.parametrize("name", FORMER)
@pytest.mark.slow
def test_a_phase_begins_with_the_parameters_of_the_former_and_the_rows_that_follow(twin, name):
    phase, former = twin[name], twin[FORMER[name]]
    assert phase.first_loss() == pytest.approx(phase.loss_with(former.array("params", phase.start)), rel=1e-5)
    assert phase.rows[phase.start + 1]["train/tokens"] == phase.loader().batches.offset(phase.start + 1) * 64


@pytest.mark.slow
def test_no_row_comes_twice_on_the_way_through_the_line(twin):
    """As long as a source is not passed through; and what a later phase says of an earlier update is what that did."""
    last = twin["deeper-starling"]
    seen: list[tuple] = []
    for name in LINE:
        for update in twin[name].rows:
            rows = twin[name].rows_of(update)
            assert rows == last.rows_of(update), f"{name}, update {update}"
            seen += [(source, tuple((p.document, p.start) for p in pieces)) for source, pieces in rows]
    whole = [source for source, epochs in last.summary["epochs"].items() if epochs <= 1]
    kept = [row for row in seen if row[0] in whole]
    assert len(kept) == len(set(kept)) > 200


@pytest.mark.slow
def test_each_stage_of_the_mixture_begins_with_its_phase(twin, experiments):
    tootsie = experiments[0]
    phoenix = twin["phoenix"]
    sources = {update: {source for source, _ in phoenix.rows_of(update)} for update in range(8, 26)}
    assert set().union(*(sources[u] for u in range(8, 14))) <= set(tootsie.DCLM_MIXTURE_WEIGHTS)
    assert set().union(*(sources[u] for u in range(14, 20))) <= set(tootsie.JELLYFISH_WEIGHTS)
    assert "dolmino/dclm" in sources[14] and "dclm_baseline" in sources[20]
    assert set().union(*(sources[u] for u in range(23, 26))) <= set(tootsie.PHOENIX_WEIGHTS)


@pytest.mark.slow
def test_the_optimizer_is_carried_through_and_made_anew_where_weights_alone_are_taken(twin):
    counts = {name: phase.count() for name, phase in twin.items()}
    assert counts == {name: phase.end for name, phase in twin.items()}
    softer, raccoon = twin["softer-raccoon"], twin["raccoon"]
    assert counts["raccoon"] == 25 and counts["softer-raccoon"] == 6
    assert softer.first_loss() == pytest.approx(softer.loss_with(raccoon.array("params", raccoon.end)), rel=1e-5)
    assert [row.position for row in rows_at_update(softer.loader(), 1)] == list(range(12)), "rows from the first on"


@pytest.mark.slow
def test_z_loss_is_added_and_batches_grow_where_the_phase_says(twin):
    with_z_loss = {n for n, phase in twin.items() for row in [phase.rows[phase.end]] if _has_z_loss(row)}
    assert with_z_loss == {"starling", "deeper-starling", "spoonbill-zloss"}
    tokens = {name: (twin[name].summary["num_tokens"]) for name in LINE}
    sizes = np.diff([0, *tokens.values()]) / 64 / np.asarray([7, 6, 6, 6, 6, 6])
    assert sizes.tolist() == [4, 12, 12, 12, 16, 16]


def _has_z_loss(row: dict) -> bool:
    return row["train/total_loss"] > row["train/loss"]


@pytest.mark.slow
def test_an_average_that_is_added_begins_as_the_parameters(twin, tmp_path):
    kestrel, ocelot = twin["kestrel"], twin["ocelot"]
    trainer = replace(ocelot.config.trainer, num_train_steps=kestrel.end + 1)
    config = replace(ocelot.config, trainer=trainer, output_path=str(tmp_path / "run"))
    train_lm(config)
    one = Phase(tmp_path / "run")
    before, after, average = kestrel.array("params", 7), one.array("params", 8), one.array("average", 8)
    expected = jax.tree.map(lambda a, b: 0.995 * a + 0.005 * b, before, after)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), average, expected)
    assert "ema/standard_library" in ocelot.summary["final_validation"]
    assert "ema/standard_library" not in kestrel.summary["final_validation"]


@pytest.mark.slow
def test_with_the_loader_reset_the_count_goes_on_and_rows_begin_anew(twin, tmp_path):
    ocelot = twin["ocelot"]
    config = replace(
        ocelot.config,
        trainer=replace(ocelot.config.trainer, num_train_steps=8),
        initialize_from=replace(ocelot.config.initialize_from, reset_data_loader_on_init=True),
        output_path=str(tmp_path / "run"),
    )
    train_lm(config)
    anew = Phase(tmp_path / "run")
    assert (anew.start, anew.end) == (7, 8)
    positions = [row.position for row in rows_at_update(anew.loader(first_step=7), 8)]
    assert positions == list(range(12)) and anew.summary["num_tokens"] == 12 * 64
    assert anew.rows[8]["train/learning_rate"] == ocelot.rows[8]["train/learning_rate"]
    assert anew.rows[8]["train/loss"] != ocelot.rows[8]["train/loss"]
