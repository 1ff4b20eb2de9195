"""Planning an evaluation needs no tensor library, and its settings are the step's identity."""

import subprocess
import sys

import pytest

from marin.evaluation.api import default_eval, eval_checkpoints, evaluate_heldout
from marin.evaluation.tasks import EvalTaskConfig
from marin.execution.executor import ExecutorStep


def step(**changes) -> ExecutorStep:
    collected = ExecutorStep(name="documents", fn="marin.nowhere:collect", config=None)
    exported = ExecutorStep(name="export", fn="marin.nowhere:export", config=None)
    settings = {"seed": 0, "max_bytes": 1000, "num_questions": 5} | changes
    return evaluate_heldout("evaluation", exported, collected / "validation", collected / "train", **settings)


def test_every_setting_reaches_the_step():
    config = step(num_prompts=7).config
    assert (config.seed, config.max_bytes, config.num_questions, config.num_prompts) == (0, 1000, 5, 7)
    with pytest.raises(TypeError, match="num_prompt"):
        step(num_prompt=7)


@pytest.mark.parametrize("build", [default_eval, eval_checkpoints])
@pytest.mark.parametrize(
    ("evals", "settings", "said"),
    [
        ([EvalTaskConfig("cop", 2)], {}, "no task, group or list 'cop'; did you mean 'copa'"),
        ("copa", {}, "expected EvalTaskConfigs, as resolve_tasks"),
        ([EvalTaskConfig("copa", 2)], {"limit": 5}, "did you mean max_eval_instances"),
        ([EvalTaskConfig("copa", 2)], {"fewshot_sed": 5}, "did you mean fewshot_seed"),
    ],
)
def test_a_wrong_evaluation_is_told_when_its_step_is_built(build, evals, settings: dict, said: str):
    with pytest.raises(ValueError, match=said):
        build(ExecutorStep(name="checkpoints/tiny", fn="marin.nowhere:train", config=None), evals, **settings)


def test_a_number_of_examples_is_a_number():
    with pytest.raises(ValueError, match="num_fewshot is '2'; a number is expected"):
        EvalTaskConfig("copa", "2")  # type: ignore[arg-type]


def test_building_the_step_loads_no_tensor_library():
    script = "import sys, marin.evaluation.api; print('jax' in sys.modules or 'numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
