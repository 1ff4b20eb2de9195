"""Tootsie 8B: one model through eight phases, each begun with a checkpoint of the one before.

    marin plan experiments/tootsie/exp600_tootsie.py                        # every step from the downloads on
    marin plan experiments/tootsie/exp600_tootsie.py --config tootsie-8b-phoenix
    marin run experiments/tootsie/exp600_twin.py                            # the same, small, on local text: minutes

The run was not planned: its makers trained with what they had, and folded new data, batch sizes and schedules in as
they came. So this is a story told as definitions. Sources of its numbers: the reference project's experiment 600 (and
898 Raccoon, 916 Spoonbill, 977 Starling) and its retrospective of the 8B model. What is ours is marked so.

    updates from     to          phase       what is new
            0     660,000   Kestrel     DCLM mix, WSD-S, batches of 1024 rows, rotary frequencies of Llama 2
      660,000     740,500   Ocelot      3072 rows, rate times sqrt(3), no decay, averaged weights, rotary of Llama 3
      740,500     820,000   Jellyfish   30% of better text, rate down to a tenth: the first cooldown
      820,000   1,320,000   Phoenix     rate up again within 2,000 updates, on to Nemotron-CC
    1,320,000   1,400,000   Starling    4096 rows, z-loss, rate down to a hundredth: the second cooldown
    1,400,000   1,420,000   Deeper Starling    on at the lowest rate
      820,000     830,000   Raccoon     from Jellyfish, ten times deeper; then from 1.7e-5 to 1e-6 with AdamW made anew
      820,000     830,000   Spoonbill   from Jellyfish, with instructions mixed in; from half-way on also with z-loss

One count of updates runs through all phases, so batch sizes and stages of the mixture are lists that grow from phase
to phase, and a run that begins at update 820,000 takes the rows that follow those of the runs before it. Optimizer
state is handed over too, except where a phase says that it is made anew.

`tootsie` builds the steps from a `Scale`, so that the small twin differs in lengths, sizes and text, and in nothing
else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiments.datasets.dclm import DCLM_MIXTURE_WEIGHTS, dclm_components
from experiments.datasets.dolma import tokenize_dolma
from experiments.datasets.dolmino import tokenize_dolmino_math, tokenize_dolmino_subset
from experiments.datasets.midtraining import tokenize_finemath, tokenize_own_copies, tokenize_tulu
from experiments.datasets.nemotron import NEMOTRON_WEIGHTS, tokenize_nemotron
from experiments.datasets.paloma import paloma_tokenized
from experiments.models.llama import llama_8b, llama_8b_old_rotary
from marin.cluster.resources import ResourceConfig
from marin.data.config import LmDataConfig
from marin.execution.executor import ExecutorStep, executor_main, output_path_of
from marin.models.config import LmConfig
from marin.optim.schedules import ScheduleStep, Steps
from marin.processing.tokenize.data_configs import lm_varying_mixture_data_config
from marin.training.api import default_train
from marin.training.config import SimpleTrainConfig
from marin.training.initialize_config import InitializeFrom

# -- lengths -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Updates of each phase."""

    kestrel_cycles: tuple[int, ...]
    """Cycles of WSD-S."""
    ocelot: int
    jellyfish: int
    phoenix: int
    phoenix_rewarmup: int
    """Part of Phoenix in which the rate rises, and the mixture is the one in between."""
    starling: int
    deeper_starling: int
    dessert: int
    """Each of the cooldowns that leave the line: Raccoon, Spoonbill."""

    @property
    def ocelot_start(self) -> int:
        return sum(self.kestrel_cycles)

    @property
    def jellyfish_start(self) -> int:
        return self.ocelot_start + self.ocelot

    @property
    def phoenix_start(self) -> int:
        return self.jellyfish_start + self.jellyfish

    @property
    def starling_start(self) -> int:
        return self.phoenix_start + self.phoenix

    @property
    def deeper_start(self) -> int:
        return self.starling_start + self.starling

    @property
    def end(self) -> int:
        return self.deeper_start + self.deeper_starling

    def divided(self, by: int, *, at_least: int) -> "Lengths":
        """Every phase so many times shorter, but of `at_least` updates; Kestrel in two cycles."""

        def shorter(length: int) -> int:
            return max(at_least, round(length / by))

        kestrel = shorter(self.ocelot_start)
        return Lengths(
            kestrel_cycles=(kestrel // 2, kestrel - kestrel // 2),
            ocelot=shorter(self.ocelot),
            jellyfish=shorter(self.jellyfish),
            phoenix=shorter(self.phoenix),
            phoenix_rewarmup=max(at_least // 2, round(self.phoenix_rewarmup / by)),
            starling=shorter(self.starling),
            deeper_starling=shorter(self.deeper_starling),
            dessert=shorter(self.dessert),
        )


# Kestrel decayed for a tenth of every 10,000 updates, from update 200,000 on of every 20,000. The checkpoints that the
# original handed over lay some updates before the ends named here (738,376, 819,924, 1,399,923), where its runs were
# stopped.
PUBLISHED_LENGTHS = Lengths(
    kestrel_cycles=(*[10_000] * 20, *[20_000] * 23),
    ocelot=80_500,
    jellyfish=79_500,
    phoenix=500_000,
    phoenix_rewarmup=2_000,
    starling=80_000,
    deeper_starling=20_000,
    dessert=10_000,
)

# -- mixtures ----------------------------------------------------------------------------------------------------------


def normalized(weights: Mapping[str, float], total: float = 1.0) -> dict[str, float]:
    """The weights, made to sum to `total`."""
    return {name: weight * total / sum(weights.values()) for name, weight in weights.items()}


# Billions of Llama 3 tokens, as the reference counted them; about two epochs in Jellyfish.
HIGH_QUALITY = {
    "dolma/algebraic-stack": 11.5,
    "dolma/arxiv": 27.9,
    "dolma/megawika": 4.44,
    "dolma/open-web-math": 5.06,
    "dolma/pes2o": 58.1,
    "dolma/stackexchange": 17.1,
    "dolma/wiki": 3.65,
    "finemath_3_plus": 34.0,
}
WEB = {"dolmino/dclm": 700.0, "starcoderdata": 23.0}  # of code, seen before, a tenth
JELLYFISH_WEIGHTS = {**normalized(WEB, 0.7), **normalized(HIGH_QUALITY, 0.3)}

PHOENIX_WEIGHTS = {**NEMOTRON_WEIGHTS, "starcoderdata": 0.25}
PHOENIX_REWARMUP_WEIGHTS = {**DCLM_MIXTURE_WEIGHTS, **PHOENIX_WEIGHTS}  # each by its tokens

# Trillions of tokens, times how often each is worth repeating.
STARLING_HIGH_QUALITY = {
    "starcoderdata": 0.25,
    "proofpile_2": 0.25,
    "dolmino/flan": 0.017 * 10,
    "dolmino/pes2o": 0.0581 * 5,
    "dolmino/stackexchange": 0.0171 * 5,
    "dolmino/wiki": 0.00365 * 5,
    "dolmino/all_math": 0.00422 * 10,
    "arxiv_markdownified": 0.0581 * 5,
    "stackexchange_custom": 0.0171 * 5,
    "wikipedia_markdown": 0.00365 * 5,
    "medu_science_qa": 0.0012 * 5,
    "finemath_3_plus": 0.034 * 5,
}
STARLING_WEIGHTS = {**normalized(NEMOTRON_WEIGHTS, 0.7), **normalized(STARLING_HIGH_QUALITY, 0.3)}

SPOONBILL_WEIGHTS = {**normalized(JELLYFISH_WEIGHTS, 0.97), "dolmino/flan": 0.029, "tulu_3": 0.001}

ALL_WEIGHTS = (
    *(DCLM_MIXTURE_WEIGHTS, JELLYFISH_WEIGHTS, PHOENIX_REWARMUP_WEIGHTS),
    *(PHOENIX_WEIGHTS, STARLING_WEIGHTS, SPOONBILL_WEIGHTS),
)
SET_NAMES = tuple(dict.fromkeys(name for weights in ALL_WEIGHTS for name in weights))
"""Every set that some phase takes."""


def published_sets() -> dict[str, ExecutorStep]:
    """Token stores of the sets, by their names in the mixtures."""
    return {
        **dclm_components(),
        **tokenize_dolma(),
        **tokenize_nemotron(),
        **tokenize_own_copies(),
        **{f"dolmino/{part}": tokenize_dolmino_subset(part) for part in ("dclm", "flan", "pes2o")},
        **{f"dolmino/{part}": tokenize_dolmino_subset(part) for part in ("stackexchange", "wiki")},
        "dolmino/all_math": tokenize_dolmino_math(),
        "finemath_3_plus": tokenize_finemath(),
        "tulu_3": tokenize_tulu(),
    }


# -- the runs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What the run and its small twin differ in."""

    prefix: str
    """The runs are called PREFIX-kestrel and so on."""
    lengths: Lengths
    rows: tuple[int, int, int]
    """Rows of a batch: in Kestrel, from Ocelot on, from Starling on."""
    old_model: LmConfig
    """Kestrel's: the model with the default rotary frequencies."""
    model: LmConfig
    """Everybody else's."""
    sets: Mapping[str, ExecutorStep]
    """Name of each set -> its token store."""
    validation: Mapping[str, ExecutorStep]
    """Validation sets by tag."""
    base: SimpleTrainConfig
    """What all phases have in common; what a phase says goes before it."""
    kestrel_resources: ResourceConfig | None = None
    resources: ResourceConfig | None = None
    """Hardware of the line from Ocelot on."""
    dessert_resources: ResourceConfig | None = None


def tootsie(scale: Scale) -> dict[str, ExecutorStep]:
    """The training steps of all phases, by their names, in order."""
    at, rows = scale.lengths, scale.rows
    sizes = (ScheduleStep(0, rows[0]), ScheduleStep(at.ocelot_start, rows[1]))
    steps: dict[str, ExecutorStep] = {}

    def train(phase: str, model: LmConfig, data: LmDataConfig, config: SimpleTrainConfig, *tags: str) -> ExecutorStep:
        name = f"{scale.prefix}-{phase}"
        steps[phase] = default_train(name, data, model, config, tags=["exp600", "tootsie", *tags])
        return steps[phase]

    def mixture(*stages: tuple[int, Mapping[str, float]]) -> LmDataConfig:
        """The sets that some stage names, with shares by stage."""
        named = {name for _, weights in stages for name in weights}
        return lm_varying_mixture_data_config(
            {name: store for name, store in scale.sets.items() if name in named},
            stages,
            validation_sets=scale.validation,
        )

    # Kestrel: the hyperparameters of table 12 of the DCLM paper, but half its rate, which diverged.
    dclm = (0, DCLM_MIXTURE_WEIGHTS)
    kestrel_config = replace(
        scale.base,
        resources=scale.kestrel_resources,
        train_batch_size=rows[0],
        num_train_steps=at.ocelot_start,
        learning_rate=1e-3,
        lr_schedule="wsd",
        cycle_length=at.kestrel_cycles,
        warmup=max(1, at.kestrel_cycles[0] // 10),
        decay=tuple(max(1, length // 10) for length in at.kestrel_cycles),
        min_lr_ratio=0.1,  # ours
    )
    kestrel = train("kestrel", scale.old_model, mixture(dclm), kestrel_config, "wsd-s")

    # Ocelot: three times the rows, sqrt(3) times the rate. The average begins as the parameters.
    ocelot_config = replace(
        scale.base,
        resources=scale.resources,
        train_batch_size=sizes,
        num_train_steps=at.jellyfish_start,
        learning_rate=1.7e-3,
        lr_schedule="constant",
        warmup=0,
        ema_beta=0.995,
        initialize_from_checkpoint_path=_checkpoint(kestrel, at.ocelot_start),
        reset_data_loader_on_init=False,
        allow_partial_checkpoint=True,
    )
    ocelot = train("ocelot", scale.model, mixture(dclm), ocelot_config, "ema")

    # Jellyfish: to a tenth of the rate.
    jellyfish_stages = (dclm, (at.jellyfish_start, JELLYFISH_WEIGHTS))
    jellyfish_config = replace(
        ocelot_config,
        num_train_steps=at.phoenix_start,
        lr_schedule="linear",
        decay=Steps(at.jellyfish),
        min_lr_ratio=0.1,
        initialize_from_checkpoint_path=_checkpoint(ocelot, at.jellyfish_start),
        allow_partial_checkpoint=None,
    )
    jellyfish = train("jellyfish", scale.model, mixture(*jellyfish_stages), jellyfish_config, "ema", "cooldown")

    # Phoenix: the schedule is Jellyfish's, and then a cycle that warms up from where that ended and does not decay.
    phoenix_stages = (
        *jellyfish_stages,
        (at.phoenix_start, PHOENIX_REWARMUP_WEIGHTS),
        (at.phoenix_start + at.phoenix_rewarmup, PHOENIX_WEIGHTS),
    )
    phoenix_config = replace(
        jellyfish_config,
        num_train_steps=at.starling_start,
        lr_schedule="wsd",
        cycle_length=(at.phoenix_start, at.phoenix),
        decay=(Steps(at.jellyfish), 0),
        rewarmup=Steps(at.phoenix_rewarmup),
        initialize_from_checkpoint_path=_checkpoint(jellyfish, at.phoenix_start),
    )
    phoenix = train("phoenix", scale.model, mixture(*phoenix_stages), phoenix_config, "ema")

    # Starling: z-loss, which the deep cooldowns below were found to need.
    starling_stages = (*phoenix_stages, (at.starling_start, STARLING_WEIGHTS))
    starling_config = replace(
        jellyfish_config,
        train_batch_size=(*sizes, ScheduleStep(at.starling_start, rows[2])),
        num_train_steps=at.deeper_start,
        decay=Steps(at.starling),
        min_lr_ratio=0.01,
        z_loss_weight=1e-4,
        initialize_from_checkpoint_path=_checkpoint(phoenix, at.starling_start),
    )
    starling = train("starling", scale.model, mixture(*starling_stages), starling_config, "ema", "cooldown")

    deeper_config = replace(
        starling_config,
        num_train_steps=at.end,
        learning_rate=1.7e-5,
        lr_schedule="constant",
        decay=None,
        min_lr_ratio=None,
        initialize_from_checkpoint_path=_checkpoint(starling, at.deeper_start),
    )
    train("deeper-starling", scale.model, mixture(*starling_stages), deeper_config, "ema", "cooldown")

    # Raccoon: Jellyfish ten times deeper. Its loss crept up, here and at lower rates still.
    raccoon_config = replace(
        jellyfish_config,
        resources=scale.dessert_resources,
        num_train_steps=at.phoenix_start + at.dessert,
        learning_rate=1.7e-4,
        decay=Steps(at.dessert),
        initialize_from_checkpoint_path=_checkpoint(jellyfish, at.phoenix_start),
    )
    raccoon = train("raccoon", scale.model, mixture(*jellyfish_stages), raccoon_config, "ema", "exp898")

    # Softer Raccoon, with the moments of AdamW made anew, in case they were to blame (they were not): weights alone, so
    # updates and rows are counted from 0 (the original deleted the moments by hand and kept the count; ours).
    softer_config = replace(
        raccoon_config,
        train_batch_size=rows[1],
        num_train_steps=at.dessert,
        learning_rate=1.7e-5,
        min_lr_ratio=1e-6 / 1.7e-5,
        initialize_from_checkpoint_path=None,
        reset_data_loader_on_init=None,
    )
    softer = train("softer-raccoon", scale.model, mixture((0, JELLYFISH_WEIGHTS)), softer_config, "ema", "exp898")
    steps["softer-raccoon"] = replace(
        softer,
        config=replace(
            softer.config,
            initialize_from=InitializeFrom(
                path=_checkpoint(raccoon, raccoon_config.num_train_steps), content="weights"
            ),
        ),
    )

    # Spoonbill: not quite so deep, with instructions. The loss crept up again, until z-loss was added half-way.
    spoonbill_stages = (*jellyfish_stages, (at.phoenix_start, SPOONBILL_WEIGHTS))
    half_way = at.phoenix_start + at.dessert // 2
    spoonbill_config = replace(
        raccoon_config,
        min_lr_ratio=2.75e-5 / 1.7e-4,
        steps_per_checkpoint=half_way,  # which is handed over below,
        steps_per_export=half_way,  # and so is kept
    )
    spoonbill = train("spoonbill", scale.model, mixture(*spoonbill_stages), spoonbill_config, "ema", "exp916")
    z_loss_config = replace(
        spoonbill_config, z_loss_weight=1e-4, initialize_from_checkpoint_path=_checkpoint(spoonbill, half_way)
    )
    train("spoonbill-zloss", scale.model, mixture(*spoonbill_stages), z_loss_config, "ema", "exp916")
    return steps


def _checkpoint(step: ExecutorStep, num_steps: int) -> Any:
    """The checkpoint that a run has after so many updates."""
    return output_path_of(step, f"checkpoints/step-{num_steps:08d}")


def published() -> Scale:
    """The 8B run."""
    return Scale(
        prefix="tootsie-8b",
        lengths=PUBLISHED_LENGTHS,
        rows=(1024, 3072, 4096),
        old_model=llama_8b_old_rotary,
        model=llama_8b,
        sets=published_sets(),
        validation=paloma_tokenized(),
        base=SimpleTrainConfig(
            train_batch_size=1024,
            num_train_steps=1,
            learning_rate=1e-3,
            weight_decay=0.05,
            precision="p=f32,c=bfloat16",
            steps_per_eval=10_000,
            steps_per_checkpoint=10_000,
            steps_per_export=20_000,
            max_eval_batches=16,  # ours
        ),
        kestrel_resources=ResourceConfig.with_tpu("v5litepod-256", slice_count=2),
        resources=ResourceConfig.with_tpu("v4-2048"),
        dessert_resources=ResourceConfig.with_tpu("v4-128", slice_count=4),
    )


if __name__ == "__main__":
    executor_main(
        steps=list(tootsie(published()).values()),
        description="An 8B Llama on DCLM, cooled, reheated on Nemotron-CC, and cooled again",
    )
