"""Are our scores those of lm-evaluation-harness 0.4.13 on the same rows and the same weights?

    python benchmarks/eval_parity.py --peer /path/to/python-with-lm-eval --data EVAL_FOLDER [--limit 100] [--tasks ...]

For each task the harness's own definition is run over the very rows that marin reads (written as JSON in the columns of
the task's source; the only thing changed in the definition is where its rows are). Compared are

1. the words: context and continuation of every request of every row, at the shots of CORE_TASKS and their like, which
   covers prompts, delimiters, example sampling and order of candidates. No model is needed for this. Examples of a
   row depend on all rows before it, so the first `--rows` say nearly as much as all.
2. the answers: log-likelihoods, acc, acc_norm, exact match of the first rows on one GPT-2 with random weights, read by
   marin from the same folder, against the harness's `hf` backend (torch on the CPU, float32).
3. the judgement: random weights get no question of the tasks that write, or that ask for one text, right, and 0 = 0
   says nothing. Both sides are given the same recorded answers there, some right, some right to one filter alone, some
   wrong: what the filters take out, exact match, acc and perplexity are compared. Answers that are all judged alike
   end the script.

A document whose answer differs is listed with both log-likelihoods. `margin` is the smallest gap between the best and
the second best candidate: a difference of log-likelihoods below half of it cannot change an answer. Written to
benchmarks/results/eval_parity.md.
"""

import argparse
import json
import math
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from marin.evaluation.exported import open_export
from marin.evaluation.run_tasks import evaluate_tasks
from marin.evaluation.tasks import TASKS, EvalTaskConfig
from marin.evaluation.tasks.data import TaskData
from marin.evaluation.tasks.mmlu import MMLU_AREAS
from marin.evaluation.tasks.scores import estimate, written_values
from marin.evaluation.tasks.shots import FEWSHOT_SEED, prompted
from marin.processing.tokenize.tokenizer import load_tokenizer

HERE = Path(__file__).resolve().parent

# marin's task -> (the harness's own definition, what is changed in it beside where the rows are)
BASES: dict[str, tuple[str, dict]] = {
    # its answer is a list, which the harness cannot write into an example: at more than 0 shots it stops
    "agieval_lsat_ar": ("agieval/lsat-ar.yaml", {"fewshot_config": {"doc_to_target": "{{choices[gold[0]]}}"}}),
    "arc_easy": ("arc/arc_easy.yaml", {}),
    "arc_challenge": ("arc/arc_challenge.yaml", {}),
    "boolq": ("super_glue/boolq/default.yaml", {}),
    # the local rows have four choices, of which the harness's template would want a fifth
    "commonsense_qa": (
        "commonsense_qa/default.yaml",
        {
            "doc_to_text": "Question: {{ question.strip() }}\nA. {{choices['text'][0]}}\nB. {{choices['text'][1]}}\n"
            "C. {{choices['text'][2]}}\nD. {{choices['text'][3]}}\nAnswer:",
            "doc_to_choice": ["A", "B", "C", "D"],
        },
    ),
    "copa": ("super_glue/copa/default.yaml", {}),
    "hellaswag": ("hellaswag/hellaswag.yaml", {}),
    "lambada_openai": ("lambada/lambada_openai.yaml", {}),
    "openbookqa": ("openbookqa/openbookqa.yaml", {}),
    "piqa": ("piqa/piqa.yaml", {}),
    "wsc273": ("wsc273/default.yaml", {}),
    "winogrande": ("winogrande/default.yaml", {}),
    "gsm8k": ("gsm8k/gsm8k.yaml", {}),
    "gsm8k_cot": ("gsm8k/gsm8k-cot.yaml", {}),
}
# Tasks that the harness does not have: the same form in its terms.
CONTINUATION = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{context}}",
    "doc_to_target": "{{continuation if continuation[0] == ' ' else ' ' + continuation}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
}
CASES = (
    ("agieval_lsat_ar", 3),
    ("arc_easy", 10),
    ("arc_challenge", 10),
    ("boolq", 10),
    ("commonsense_qa", 10),
    ("copa", 0),
    ("hellaswag", 0),
    ("hellaswag", 10),
    ("lambada_openai", 0),
    ("openbookqa", 0),
    ("piqa", 10),
    ("wsc273", 0),
    ("winogrande", 0),
    ("winogrande", 5),
    ("bigbench_dyck_languages", 10),
    ("bigbench_operators", 10),
    ("bigbench_cs_algorithms", 10),
    ("bigbench_repeat_copy_logic", 10),
    ("simple_arithmetic", 0),
    ("gsm8k", 5),
    ("gsm8k_cot", 8),
    *((f"mmlu_{subject}", shots) for subjects in MMLU_AREAS.values() for subject in subjects for shots in (0, 5)),
)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One task, theirs beside ours."""

    name: str
    shots: int
    rows: int
    """Rows whose words were compared."""
    other_words: int
    """Of them, rows of which a request differs."""
    answered: int = 0
    """Rows whose answers were compared."""
    largest: float = 0.0
    """Largest difference of two log-likelihoods, nats."""
    margin: float | None = None
    """Smallest gap between best and second best candidate, nats."""
    metrics: tuple[tuple[str, float, float, int], ...] = ()
    """Metric, theirs, ours, rows that differ."""
    differing: tuple[str, ...] = ()
    """The differing rows in words."""


def file_name(name: str, shots: int) -> str:
    return f"{name}_at_{shots}"


def write_task(work: Path, data: TaskData, name: str, shots: int) -> None:
    """The harness's task over marin's rows."""
    task = TASKS[name]
    rows = data.load(task, shots)
    splits = {"test": rows.asked}
    config: dict = {}
    if name in BASES:
        base, config = BASES[name]
        config = {"include": f"{{TASKS}}/{base}", **config}
    elif name.startswith("mmlu_"):
        config = {"include": f"{{TASKS}}/mmlu/default/{name}.yaml"}
    else:
        config = dict(CONTINUATION)
    config |= {"task": file_name(name, shots), "dataset_path": "json", "dataset_name": None, "num_fewshot": shots}
    config |= {"training_split": None, "validation_split": None, "test_split": "test"}
    if not task.shots.fixed:
        config["fewshot_split"] = "test" if rows.pool_is_asked or not rows.pool else "train"
    if rows.pool and not rows.pool_is_asked and not task.shots.fixed:
        splits["train"] = rows.pool
    folder = work / "rows"
    folder.mkdir(exist_ok=True)
    files = {}
    for split, located in splits.items():
        file = folder / f"{file_name(name, shots)}_{split}.jsonl"
        file.write_text("".join(json.dumps(dict(row.row)) + "\n" for row in located), encoding="utf-8")
        files[split] = str(file)
    config["dataset_kwargs"] = {"data_files": files}
    (work / "lm_eval").mkdir(exist_ok=True)
    # JSON is YAML; functions that the included file names are found beside that file
    (work / "lm_eval" / f"{file_name(name, shots)}.yaml").write_text(json.dumps(config), encoding="utf-8")


def our_arguments(data: TaskData, name: str, shots: int, limit: int | None) -> list[list[list[str]]]:
    """[context, continuation] of each request of each row; of a task that writes, the prompt."""
    task = TASKS[name]
    between = task.delimiter if task.kind == "multiple_choice" else ""
    questions = prompted(task, data.load(task, shots), num_fewshot=shots, seed=FEWSHOT_SEED, limit=limit)
    if task.kind == "generation":
        return [[[question.prompts[0]]] for question in questions]
    return [
        [
            [prompt, between + continuation]
            for prompt, continuation in zip(question.prompts, question.example.continuations, strict=True)
        ]
        for question in questions
    ]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def compare_words(work: Path, data: TaskData, name: str, shots: int, limit: int | None) -> Compared:
    theirs = [row["arguments"] for row in read(work / "requests" / f"{file_name(name, shots)}.jsonl")]
    ours = our_arguments(data, name, shots, limit)
    if TASKS[name].kind == "generation":
        theirs = [[arguments[0][:1]] for arguments in theirs]
    differing = [index for index, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b]
    shown = tuple(f"row {index}: {theirs[index]!r} | {ours[index]!r}" for index in differing[:2])
    return Compared(name=name, shots=shots, rows=len(ours), other_words=len(differing), differing=shown)


def recorded_answers(data: TaskData, name: str, shots: int, limit: int | None) -> list[dict]:
    """An answer to each row, right in the ways that filters tell apart or wrong; of a continuation what it cost."""
    questions = prompted(TASKS[name], data.load(TASKS[name], shots), num_fewshot=shots, seed=FEWSHOT_SEED, limit=limit)
    if TASKS[name].kind == "continuation":
        return [{"log_prob": -0.5 - 0.3 * (row % 7), "is_greedy": row % 3 == 0} for row, _ in enumerate(questions)]
    answers = []
    for row, question in enumerate(questions):
        number = re.findall(r"-?[0-9][0-9.,]*", question.example.targets[0])[-1].rstrip(".,")
        forms = (
            f"It is {number}.\n#### {number}",
            f"The answer is {number}.",
            f"The answer is 1{number}. No: #### 1{number} and not {number}",
            f"First $3.00, and then ${number}",
            "I do not know.",
        )
        answers.append({"text": forms[row % len(forms)]})
    return answers


def compare_judgement(work: Path, words: Compared, data: TaskData, limit: int | None) -> Compared:
    """The values and scores that both sides give to the recorded answers."""
    file = f"{file_name(words.name, words.shots)}.jsonl"
    *theirs, last = read(work / "judged" / file)
    task = TASKS[words.name]
    questions = prompted(task, data.load(task, words.shots), num_fewshot=words.shots, seed=FEWSHOT_SEED, limit=limit)
    ours: list[dict[str, Any]] = []
    for question, answer in zip(questions, read(work / "recorded" / file), strict=True):
        if task.kind == "generation":
            values, _ = written_values(task, question.example, answer["text"])
        else:
            values = {"acc": answer["is_greedy"], "log_likelihood": answer["log_prob"]}
        ours.append({**values, "group": None})
    metrics, differing = [], []
    for key, score in last["scores"].items():
        metric, _, name = key.partition(",")
        our_name = metric if name == "none" else key
        rows = [row for row in theirs if row["filter"] == name]
        our_score = estimate(our_name, ours).value
        if metric == "perplexity":
            num_differing = int(not math.isclose(score, our_score, rel_tol=1e-9))
        else:
            different = [row for row in rows if float(row[metric]) != float(ours[row["doc_id"]][our_name])]
            num_differing = len(different)
            differing += [f"recorded answer {row['doc_id']}, {our_name}: theirs {row[metric]}" for row in different]
            if len({float(row[metric]) for row in rows}) < 2:
                raise SystemExit(f"{words.name}: {our_name} is {score} of every recorded answer, which says nothing")
        metrics.append((f"{our_name} of {len(rows)} recorded", float(score), our_score, num_differing))
    return Compared(
        **{
            **vars(words),
            "metrics": words.metrics + tuple(metrics),
            "differing": words.differing + tuple(differing),
        }
    )


def compare_answers(work: Path, words: Compared, samples: Sequence[Mapping[str, Any]]) -> Compared:
    theirs = read(work / "answers" / f"{file_name(words.name, words.shots)}.jsonl")
    kind = TASKS[words.name].kind
    if kind == "generation":
        return _compare_texts(words, theirs, samples)
    largest, margins, differing = 0.0, [], []
    metrics = [name for name in ("acc", "acc_norm") if name in theirs[0]]
    for their, our in zip(theirs, samples, strict=True):
        responses = their["responses"]
        if not isinstance(responses[0], list):  # of a single request
            responses = [responses]
        log_probs = np.array([float(response[0]) for response in responses])
        ours = np.array(our["log_probs"])
        largest = max(largest, float(np.max(np.abs(log_probs - ours))))
        if kind == "multiple_choice":
            best = np.sort(log_probs)[::-1]
            margins.append(best[0] - best[1])
        differing += [
            f"row {our['doc_id']}, {name}: theirs {their[name]} {log_probs.tolist()}, ours {our[name]} {ours.tolist()}"
            for name in metrics
            if float(their[name]) != float(our[name])
        ]
    return _with(words, theirs, samples, metrics, largest, min(margins, default=None), differing)


def _compare_texts(words: Compared, theirs: list[dict], samples: Sequence[Mapping[str, Any]]) -> Compared:
    ours = {row["doc_id"]: row for row in samples}
    strict = [row for row in theirs if row["filter"] == "strict-match"]
    differing = [
        f"row {row['doc_id']}: theirs {row['texts'][0][0]!r}, ours {ours[row['doc_id']]['resps'][0]!r}"
        for row in strict
        if row["texts"][0][0] != ours[row["doc_id"]]["resps"][0]
    ]
    for name in ("strict-match", "flexible-extract"):
        for row in (row for row in theirs if row["filter"] == name):
            if float(row["exact_match"]) != float(ours[row["doc_id"]][f"exact_match,{name}"]):
                differing.append(f"row {row['doc_id']}, {name}: {row['exact_match']}")
    metrics = tuple(
        (
            f"exact_match,{name}",
            float(np.mean([row["exact_match"] for row in theirs if row["filter"] == name])),
            float(np.mean([row[f"exact_match,{name}"] for row in samples])),
            0,
        )
        for name in ("strict-match", "flexible-extract")
    )
    return Compared(
        **{**vars(words), "answered": len(strict), "metrics": metrics, "differing": words.differing + tuple(differing)}
    )


def _with(words, theirs, samples, metrics, largest, margin, differing) -> Compared:
    compared = tuple(
        (
            name,
            float(np.mean([row[name] for row in theirs])),
            float(np.mean([row[name] for row in samples])),
            sum(float(a[name]) != float(b[name]) for a, b in zip(theirs, samples, strict=True)),
        )
        for name in metrics
    )
    return Compared(
        **{
            **vars(words),
            "answered": len(samples),
            "largest": largest,
            "margin": margin,
            "metrics": compared,
            "differing": words.differing + tuple(differing),
        }
    )


def markdown(compared: list[Compared], arguments: argparse.Namespace, command: str) -> str:
    lines = [
        "# Scores beside lm-evaluation-harness 0.4.13",
        "",
        f"`{command}`; what is compared and how: the first lines of the script. Weights: one GPT-2 with random",
        f"weights (2 layers, width 48, {arguments.positions:,} positions, the whole vocabulary), float32, CPU. "
        f"Answers: the first {arguments.limit} rows of each task. Both cut prompts that are longer than the model on "
        "the left.",
        "",
        "| task | shots | rows | other words | answers | largest difference, nats | margin, nats | theirs = ours |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in compared:
        scores = ", ".join(
            f"{name} {theirs:.4f} = {ours:.4f}"
            if not count
            else f"**{name} {theirs:.4f} / {ours:.4f}, {count} differ**"
            for name, theirs, ours, count in each.metrics
        )
        margin = "-" if each.margin is None else f"{each.margin:.2g}"
        largest = f"{each.largest:.1e}" if each.answered and each.largest else "-"
        lines.append(
            f"| {each.name} | {each.shots} | {each.rows:,} | {each.other_words} | {each.answered} | {largest} "
            f"| {margin} | {scores} |"
        )
    differing = [f"- {each.name} at {each.shots}: {words}" for each in compared for words in each.differing]
    lines += ["", "## Rows that differ", "", *(differing or ["None."])]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="a Python with lm-eval 0.4.13, transformers and torch")
    parser.add_argument("--data", required=True, help="folder of evaluation data")
    parser.add_argument("--tokenizer", required=True, help="folder of GPT-2's tokenizer")
    parser.add_argument("--limit", type=int, default=0, help="rows of each task that are scored; 0: compare words only")
    parser.add_argument("--rows", type=int, default=0, help="rows of each task whose words are compared (all)")
    parser.add_argument("--tasks", nargs="+", help="only these")
    parser.add_argument("--work", help="folder for what is made on the way, which is not made again (a temporary one)")
    parser.add_argument("--positions", type=int, default=1024, help="tokens that the model reads at once")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no_write", action="store_true", help="print, and leave the results file as it is")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(arguments.work or temporary)
        work.mkdir(parents=True, exist_ok=True)
        report = run(arguments, work)
    print(report)
    if not arguments.no_write:
        (HERE / "results" / "eval_parity.md").write_text(report, encoding="utf-8")


def run(arguments: argparse.Namespace, work: Path) -> str:
    data = TaskData(arguments.data)
    cases = [case for case in CASES if not arguments.tasks or case[0] in arguments.tasks]
    tasks_folder = subprocess.run(
        [arguments.peer, "-c", "import lm_eval.tasks, os; print(os.path.dirname(lm_eval.tasks.__file__))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[-1]
    for name, shots in cases:
        write_task(work, data, name, shots)
        file = work / "lm_eval" / f"{file_name(name, shots)}.yaml"
        file.write_text(file.read_text().replace("{TASKS}", tasks_folder))
    judged = [case for case in cases if TASKS[case[0]].kind != "multiple_choice"]
    model = work / "gpt2"
    plan = {
        "model": str(model),
        "make_model": True,
        "positions": arguments.positions,
        "seed": 0,
        "threads": arguments.threads,
        "limit": arguments.limit,
        "rows": arguments.rows or None,
        "batch_size": 2,
        "tasks": [file_name(*case) for case in cases],
        "recorded": [file_name(*case) for case in judged],
    }
    for case in judged:
        answers = recorded_answers(data, *case, arguments.rows or None)
        file = work / "recorded" / f"{file_name(*case)}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in answers), encoding="utf-8")
    if arguments.limit and not (model / "model.safetensors").is_file():
        (work / "plan.json").write_text(json.dumps(plan | {"make_model": True}))
        subprocess.run([arguments.peer, str(HERE / "peers" / "lm_eval_peer.py"), str(work)], check=True)
    load_tokenizer(arguments.tokenizer).save(model)
    (work / "plan.json").write_text(json.dumps(plan | {"make_model": False}))
    with subprocess.Popen([arguments.peer, str(HERE / "peers" / "lm_eval_peer.py"), str(work)]) as peer:
        scores = {}
        if arguments.limit:
            exported = open_export(model, 2048, allow_unverified=True)
            for name, shots in cases:
                kept = work / "ours" / f"{file_name(name, shots)}.jsonl"
                if not kept.is_file():
                    asked = [EvalTaskConfig(name, shots)]
                    samples = evaluate_tasks(exported, asked, data=data, limit=arguments.limit).samples
                    kept.parent.mkdir(exist_ok=True)
                    kept.write_text("".join(json.dumps(row) + "\n" for row in samples), encoding="utf-8")
                scores[name, shots] = read(kept)
    if peer.returncode != 0:
        raise SystemExit(f"lm-eval ended with {peer.returncode}")
    compared = [compare_words(work, data, *case, arguments.rows or None) for case in cases]
    if arguments.limit:
        compared = [compare_answers(work, each, scores[each.name, each.shots]) for each in compared]
    compared = [
        compare_judgement(work, each, data, arguments.rows or None) if (each.name, each.shots) in judged else each
        for each in compared
    ]
    flags = {"rows": arguments.rows, "limit": arguments.limit, "positions": arguments.positions}
    command = " ".join(["python benchmarks/eval_parity.py", *(f"--{name} {value}" for name, value in flags.items())])
    return markdown(compared, arguments, command)


if __name__ == "__main__":
    main()
