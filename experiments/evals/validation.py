"""The validation sets that a run is followed on where nothing else is said: Paloma and Uncheatable Eval."""

from experiments.datasets.paloma import paloma_tokenized
from experiments.datasets.uncheatable import uncheatable_eval_tokenized
from experiments.shared_tokenizers import llama3_tokenizer
from marin.execution.executor import ExecutorStep, InputName


def default_validation_sets(*, tokenizer: ExecutorStep | InputName | str = llama3_tokenizer) -> dict[str, ExecutorStep]:
    """Token stores by tag: sixteen of `paloma/...`, seven of `uncheatable_eval/...`.

    As `default_train(..., validation=default_validation_sets())` a run reports the loss and the bits per byte of each
    tag, of all of `paloma` and of all of `uncheatable_eval`, micro and macro.
    """
    return {**paloma_tokenized(tokenizer=tokenizer), **uncheatable_eval_tokenized(tokenizer=tokenizer)}
