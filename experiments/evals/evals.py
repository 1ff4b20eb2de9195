"""What models are asked, by the names that experiments know: steps from `marin.evaluation.api`, lists from its tasks.

An experiment that trains and evaluates ends with

    executor_main(steps=[trained, *default_base_eval(trained)])
"""

from marin.evaluation.api import (
    default_base_eval,
    default_eval,
    default_key_evals,
    eval_checkpoints,
    evaluate_lm_evaluation_harness,
    evaluate_validation_sets,
)

__all__ = [
    "default_base_eval",
    "default_eval",
    "default_key_evals",
    "eval_checkpoints",
    "evaluate_lm_evaluation_harness",
    "evaluate_validation_sets",
]
