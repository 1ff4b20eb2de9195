"""CPU cost of multiple choice: marin's engine beside lm-evaluation-harness 0.4.13's `hf` backend (torch), same weights.

One GPT-2 with random weights is written as a folder in the Hugging Face format, and both read it. Requests are those of
marin's tasks, word for word the harness's (`benchmarks/eval_parity.py` compares them), over local rows. Each lives in a
process of its own, in float32, on one CPU with one thread; a case is one call of `loglikelihood`, from text to numbers.
They take turns case by case.

The harness is used as it is used well: its batch size is the best, on the first requests of the case, of those listed;
its own grouping of requests whose answers are one token is on, as by default. Marin meets a case twice: `first` has
the compilation in it, nothing being kept from before; `again` is what a longer run of the same task comes near to.

    python benchmarks/bench_eval.py --data EVAL_FOLDER --tokenizer GPT2_FOLDER --peer /env/bin/python
    python benchmarks/bench_eval.py ... --layers 12 --hidden 768 --share 0.25 --no_write
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULT = Path(__file__).resolve().parent / "results" / "eval.md"
VOCAB, SEQ_LEN, HEAD_DIM = 50257, 1024, 64
BATCH_SIZES = (1, 4, 16, 64)
TOKENS_TO_TUNE = 1024
"""Of requests with which each batch size is tried."""

# name -> (tasks, shots, questions of each, whether all questions get the examples of the first)
CASES: dict[str, tuple[tuple[str, ...], int, int, bool]] = {
    "arc_easy, 0-shot": (("arc_easy",), 0, 96, False),
    "hellaswag, 0-shot": (("hellaswag",), 0, 32, False),
    "arc_easy, 10-shot, drawn for each question": (("arc_easy",), 10, 12, False),
    "arc_easy, 10-shot, the same for all": (("arc_easy",), 10, 32, True),
    "mmlu, 5-shot, two subjects": (("mmlu_anatomy", "mmlu_high_school_geography"), 5, 24, False),
}
TARGETS = {0: 2.0, 5: 5.0, 10: 5.0}
"""Shots -> how many times the harness's requests a CPU second are aimed at."""


def requests_of(data_folder: str, case: str, share: float) -> list[tuple[str, str]]:
    """(context, continuation) of each request of a case."""
    from marin.evaluation.tasks import TASKS
    from marin.evaluation.tasks.data import TaskData
    from marin.evaluation.tasks.shots import FEWSHOT_SEED, prompted

    names, shots, num_questions, same_examples = CASES[case]
    pairs = []
    for name in names:
        task = TASKS[name]
        limit = max(1, round(share * num_questions))
        rows = TaskData(data_folder).load(task, shots)
        questions = list(prompted(task, rows, num_fewshot=shots, seed=FEWSHOT_SEED, limit=limit))
        for question in questions:
            prefix = questions[0].prefix if same_examples else question.prefix
            for context, continuation in zip(question.example.contexts, question.example.continuations, strict=True):
                pairs.append((prefix + context, task.delimiter + continuation))
    return pairs


def write_model(folder: Path, tokenizer: str, layers: int, hidden: int) -> None:
    """A GPT-2 with random weights, large enough for its answers to differ, as a folder."""
    import jax

    from marin.export.hf import save_hf
    from marin.models.gpt2 import Gpt2Config

    config = Gpt2Config(seq_len=SEQ_LEN, hidden_dim=hidden, num_layers=layers, num_heads=hidden // HEAD_DIM)
    params = jax.jit(lambda: config.init(VOCAB, key=jax.random.key(0)))()
    params = jax.tree.map(lambda leaf: leaf * 3 if leaf.ndim > 1 else leaf, params)
    save_hf(config, params, VOCAB, tokenizer, folder)


# -- one racer, in its own process ------------------------------------------------------------------------------------


def cpu_seconds() -> float:
    return time.process_time()


def harness(model: str) -> Iterator[Any]:
    import lm_eval
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(1)
    lm = HFLM(pretrained=model, device="cpu", dtype="float32", batch_size=1)
    pairs = yield {"version": f"lm-eval {lm_eval.__version__}, torch {torch.__version__}", "load": cpu_seconds()}
    while True:
        asked = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(map(tuple, pairs))]

        def score(batch_size: int, asked: list[Any]) -> tuple[float, list[Any]]:
            lm.batch_size_per_gpu = batch_size
            before = cpu_seconds()
            answers = lm.loglikelihood(asked, disable_tqdm=True)
            return cpu_seconds() - before, answers

        sizes = [len(lm.tok_encode(context + continuation)) for context, continuation in pairs]
        few = max(1, next((i for i in range(len(sizes)) if sum(sizes[:i]) > TOKENS_TO_TUNE), len(sizes)))
        score(1, asked[:1])
        tried = {size: score(size, asked[:few])[0] for size in BATCH_SIZES if size < 2 * few}
        best = min(tried, key=lambda size: tried[size])
        cost, answers = score(best, asked)
        pairs = yield {
            "cpu": [cost],
            "answers": [[float(log_prob), bool(greedy)] for log_prob, greedy in answers],
            "tokens": sum(sizes),
            "batch_size": best,
        }


def marin(model: str) -> Iterator[Any]:
    import jax

    from marin.evaluation.exported import open_export
    from marin.evaluation.scoring import Request, log_likelihoods

    opened = open_export(model, 4096, allow_unverified=True)
    pairs = yield {"version": f"jax {jax.__version__}", "load": cpu_seconds()}
    while True:
        requests = [Request(context=context, continuation=continuation) for context, continuation in pairs]
        costs, answers = [], []
        jax.clear_caches()
        for _ in range(2):
            before = cpu_seconds()
            answers = log_likelihoods(opened.scored, opened.tokenizer, requests)
            costs.append(cpu_seconds() - before)
        pairs = yield {"cpu": costs, "answers": [[answer.log_prob, answer.is_greedy] for answer in answers]}


def work(racer: str, model: str, cpu: str) -> None:
    """Answer each line of standard input, a case's requests, with a line."""
    os.sched_setaffinity(0, {int(cpu)})  # before anything starts threads: one for each CPU
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    turns = {"harness": harness, "marin": marin}[racer](model)
    answer = next(turns)
    while True:
        print(json.dumps(answer), file=out, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        answer = turns.send(json.loads(line))


# -- the race ---------------------------------------------------------------------------------------------------------


class Racer:
    def __init__(self, python: str, name: str, model: Path, cpu: int):
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [python, __file__, "--worker", name, str(model), str(cpu)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.start = self.read()

    def read(self) -> Any:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"{self.process.args} ended with code {self.process.wait()}; its message stands above")
        return json.loads(line)

    def run(self, pairs: list[tuple[str, str]]) -> Any:
        self.process.stdin.write(json.dumps(pairs) + "\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return self.read()


def race(arguments: argparse.Namespace) -> Iterator[tuple[dict[str, Any], dict[str, dict[str, Any]]]]:
    """(what each said at its start, case -> racer -> what it found), after each case."""
    found: dict[str, dict[str, Any]] = {}
    cpu = sorted(os.sched_getaffinity(0))[-1]
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        write_model(model, arguments.tokenizer, arguments.layers, arguments.hidden)
        racers = {
            "marin": Racer(sys.executable, "marin", model, cpu),
            "harness": Racer(arguments.peer, "harness", model, cpu),
        }
        try:
            for case in arguments.cases:
                pairs = requests_of(arguments.data, case, arguments.share)
                found[case] = {name: racer.run(pairs) for name, racer in racers.items()}
                print(line_of(case, found[case]), flush=True)
                yield {name: racer.start for name, racer in racers.items()}, found
        finally:
            for racer in racers.values():
                racer.process.kill()
                racer.process.communicate()


def line_of(case: str, found: dict[str, Any]) -> str:
    ours, theirs = found["marin"], found["harness"]
    num = len(ours["answers"])
    [cost], (first, again) = theirs["cpu"], ours["cpu"]
    pairs = list(zip(ours["answers"], theirs["answers"], strict=True))
    difference = max(abs(one[0] - other[0]) for one, other in pairs)
    greedy = sum(one[1] != other[1] for one, other in pairs)
    target = TARGETS[CASES[case][1]]
    return (
        f"| {case} | {num} | {theirs['tokens'] / num:.0f} | {theirs['batch_size']} | {num / cost:.2f} | "
        f"{num / first:.2f} | {num / again:.2f} | {cost / first:.1f} | {cost / again:.1f} | {target:g} | "
        f"{difference:.1e} | {greedy} |"
    )


def report(start: dict[str, Any], found: dict[str, Any], arguments: argparse.Namespace, load: float) -> str:
    from bench_train_cpu import cpu_model

    lines = [
        "# Multiple choice on CPU",
        "",
        "Requests a CPU second, from text to log-likelihoods. `first` has marin's compilation in it, `again` is the",
        "same case a second time; the harness has nothing to compile, and is given the best of several batch sizes.",
        "Each in one thread on one CPU, float32. `difference`: the largest between log-likelihoods of one request, in",
        "nats; `greedy`: requests on which they disagree whether the continuation is the most probable one. More in",
        "the first lines of `benchmarks/bench_eval.py`.",
        "",
        "| case | requests | tokens each | harness's batch | harness | marin, first | marin, again | ratio, first | "
        "ratio, again | target | difference | greedy |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(line_of(case, results) for case, results in found.items()),
        "",
        f"Imports and reading the model, in CPU seconds and not in the table: marin {start['marin']['load']:.1f}, the "
        f"harness {start['harness']['load']:.1f}.",
        "",
        f"Model: GPT-2, {arguments.layers} layers of {arguments.hidden}, vocabulary {VOCAB}, context {SEQ_LEN}, random "
        "weights.",
        f"Versions: marin with {start['marin']['version']}; {start['harness']['version']}.",
        f"Machine: {cpu_model()}, {os.cpu_count()} cores, Python {platform.python_version()} for marin.",
        f"Load average: {load:.1f} before, {os.getloadavg()[0]:.1f} at the end; one of it is the race.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with evaluation data")
    parser.add_argument("--tokenizer", required=True, help="folder with GPT-2's tokenizer")
    parser.add_argument("--peer", default=sys.executable, help="Python that has lm-eval and torch")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--share", type=float, default=1.0, help="of the questions of each case")
    parser.add_argument("--no_write", action="store_true", help="only print")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    text = ""
    for start, found in race(arguments):
        text = report(start, found, arguments, load)
        if not arguments.no_write:
            RESULT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:5])
    else:
        main()
