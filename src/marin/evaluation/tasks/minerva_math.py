"""MATH: competition mathematics in seven subjects (Hendrycks et al., "Measuring Mathematical Problem Solving With the
MATH Dataset", 2021), in the prompt and by the rules of Minerva (Lewkowycz et al., "Solving Quantitative Reasoning
Problems with Language Models", 2022, appendix D).

Whether two formulas are equal is decided by lm-evaluation-harness 0.4.13's own code with a computer algebra system:
`exact_match` takes the final answer out of the text, normalises it and asks sympy; `math_verify` lets the library of
that name do all of it. The prices: packages beside the extra `evaluation`, and a time limit of seconds on each
comparison, so that a formula which takes about that long counts on a fast machine and not on a slow one.
"""

import threading

from marin.evaluation.tasks.data import MissingPackageError
from marin.evaluation.tasks.definition import Example, Row, Shots, Source, TaskDefinition, Writing
from marin.evaluation.tasks.packages import LM_EVAL_VERSION, require_lm_eval

GROUP = "minerva_math"
_ANTLR = "4.11"

# subject -> (its folder, rows)
_SUBJECTS = {
    "algebra": ("algebra", 1187),
    "counting_and_prob": ("counting_and_probability", 474),
    "geometry": ("geometry", 479),
    "intermediate_algebra": ("intermediate_algebra", 903),
    "num_theory": ("number_theory", 540),
    "prealgebra": ("prealgebra", 871),
    "precalc": ("precalculus", 546),
}


def read(row: Row) -> Example:
    solution = row["solution"]
    if "\\boxed" not in solution and "\\fbox" not in solution:
        raise ValueError("the solution has no \\boxed{ANSWER}")
    question = f"Problem:\n{row['problem']}\n\nSolution:"
    return Example(question=question, answer=solution, contexts=(question,), targets=(solution,))


def judge(example: Example, text: str) -> dict[str, float | bool]:
    from lm_eval.tasks.minerva_math import utils

    solution = example.targets[0]
    boxed = utils.last_boxed_only_string(solution)
    if boxed is None:
        raise ValueError(f"the box of a solution is not closed: {solution[-200:]!r}")
    answer = utils.normalize_final_answer(utils.remove_boxed(boxed))
    values = utils.process_results({"solution": solution, "answer": answer}, [text])
    return {name: bool(value) for name, value in values.items()}


def require() -> None:
    """Raise MissingPackageError where something is not installed, ValueError outside of the main thread.

    Comparisons are ended by a signal, which only the main thread can set; elsewhere each would count as wrong.
    """
    from importlib import metadata

    require_lm_eval(GROUP, "math", "sympy", "math_verify", "antlr4")
    antlr = metadata.version("antlr4-python3-runtime")
    if not antlr.startswith(_ANTLR):
        raise MissingPackageError(
            f"task '{GROUP}' needs antlr4-python3-runtime {_ANTLR}, by which sympy reads formulas, and {antlr} is "
            "installed",
            f"pip install 'lm-eval[math]=={LM_EVAL_VERSION}'",
        )
    if threading.current_thread() is not threading.main_thread():
        raise ValueError(
            f"task '{GROUP}' is judged in the main thread of a process alone, and this is "
            f"{threading.current_thread().name}: evaluate in a process of its own"
        )


def worked_examples() -> tuple[Row, ...]:
    """The four of Minerva's prompt."""
    require()
    from lm_eval.tasks.minerva_math import utils

    return tuple(utils.list_fewshot_samples())


def _task(subject: str) -> TaskDefinition:
    folder, num_rows = _SUBJECTS[subject]
    return TaskDefinition(
        name=f"{GROUP}_{subject}",
        kind="generation",
        about=f"competition mathematics: {folder.replace('_', ' ')}",
        version=3,
        source=Source(
            repository="EleutherAI/hendrycks_math",
            revision="21a5633873b6a120296cce3e2df9d5550074f4a3",
            licence="MIT",
            files={"test": f"{folder}/test-*.parquet"},
            fetched=("*/test-*.parquet",),
        ),
        read=read,
        judge=judge,
        require=require,
        shots=Shots(sampler="first", fixed=worked_examples),
        default_shots=4,
        metrics=("exact_match", "math_verify"),
        writing=Writing(stop=("Problem:",), filters={}),
        num_rows=num_rows,
        needs=f"`pip install 'lm-eval[math]=={LM_EVAL_VERSION}'`",
    )


MINERVA_MATH_TASKS = tuple(_task(subject) for subject in _SUBJECTS)
MINERVA_MATH_GROUPS = {GROUP: tuple(task.name for task in MINERVA_MATH_TASKS)}
"""Group -> its members."""
