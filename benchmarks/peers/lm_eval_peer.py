"""lm-evaluation-harness's side of `benchmarks/eval_parity.py`: its own tasks over given rows, on its hf backend.

    python lm_eval_peer.py WORK          (by a Python with lm-eval 0.4.13, transformers and torch)

WORK/plan.json says what to do, WORK/lm_eval/*.yaml are the tasks: each includes the harness's own definition and only
names other files. Writes WORK/requests/NAME.jsonl, what it would ask of every row, and WORK/answers/NAME.jsonl, what it
scored on the first rows; a file that is there is not made again. Of tasks that a model with random weights gets wholly
wrong, WORK/judged/NAME.jsonl is what the harness makes of the answers in WORK/recorded/NAME.jsonl.
"""

import json
import sys
import time
from pathlib import Path

import lm_eval
import torch
import transformers
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager


def make_model(folder: Path, positions: int, seed: int) -> None:
    """A GPT-2 of the full vocabulary with random weights, wide enough that no two candidates are near each other."""
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=50257,
        n_positions=positions,
        n_embd=48,
        n_layer=2,
        n_head=4,
        initializer_range=0.15,
        bos_token_id=50256,
        eos_token_id=50256,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
    )
    transformers.GPT2LMHeadModel(config).eval().save_pretrained(folder)


def write(path: Path, rows: list) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def dump_requests(work: Path, names: list[str], manager: TaskManager, limit: int | None) -> None:
    """What each task asks of all its rows, at the shots of its file and the harness's default seed."""
    loaded = manager.load(names)["tasks"] if hasattr(manager, "load") else lm_eval.tasks.get_task_dict(names, manager)
    for name in names:
        if (work / "requests" / f"{name}.jsonl").exists():
            continue
        task = loaded[name]
        task.set_fewshot_seed(1234)
        task.build_all_requests(limit=limit)
        rows: dict[int, dict] = {}
        for instance in task.instances:
            row = rows.setdefault(instance.doc_id, {"doc_id": instance.doc_id, "arguments": []})
            row["arguments"].append(list(instance.args))
        write(work / "requests" / f"{name}.jsonl", list(rows.values()))


class Recorded(LM):
    """Gives the answers of a file, by the number of the row."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.answers = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return [(self.answers[each.doc_id]["log_prob"], self.answers[each.doc_id]["is_greedy"]) for each in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError("no task of ours asks for it")

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        return [self.answers[each.doc_id]["text"] for each in requests]


def judge(work: Path, name: str) -> None:
    """The harness's values of each recorded answer, by filter, then its scores over all."""
    model = Recorded(work / "recorded" / f"{name}.jsonl")
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=[name],
        task_manager=TaskManager(include_defaults=False, include_path=str(work / "lm_eval")),
        limit=len(model.answers),
        bootstrap_iters=0,
        log_samples=True,
    )
    scores = {key: value for key, value in results["results"][name].items() if "," in key and "stderr" not in key}
    rows = [
        {"doc_id": sample["doc_id"], "filter": sample["filter"], **{each: sample[each] for each in sample["metrics"]}}
        for sample in results["samples"][name]
    ]
    write(work / "judged" / f"{name}.jsonl", [*rows, {"scores": scores}])


def main() -> None:
    work = Path(sys.argv[1])
    plan = json.loads((work / "plan.json").read_text())
    if plan["make_model"]:
        make_model(Path(plan["model"]), plan["positions"], plan["seed"])
        return
    torch.set_num_threads(plan["threads"])
    manager = TaskManager(include_defaults=False, include_path=str(work / "lm_eval"))
    dump_requests(work, plan["tasks"], manager, plan["rows"])
    for name in plan["recorded"]:
        judge(work, name)
    if not plan["limit"]:
        return
    from lm_eval.models.huggingface import HFLM  # needs more than the rest of the harness does

    model = HFLM(pretrained=plan["model"], dtype="float32", device="cpu", batch_size=plan["batch_size"])
    for name in plan["tasks"]:
        if (work / "answers" / f"{name}.jsonl").exists():
            continue
        started = time.process_time()
        results = lm_eval.simple_evaluate(
            model=model,
            tasks=[name],
            task_manager=TaskManager(include_defaults=False, include_path=str(work / "lm_eval")),
            limit=plan["limit"],
            bootstrap_iters=0,
            log_samples=True,
            confirm_run_unsafe_code=True,
        )
        metrics = [key.split(",")[0] for key in results["results"][name] if "," in key and "stderr" not in key]
        rows = []
        for sample in results["samples"][name]:
            row = {"doc_id": sample["doc_id"], "filter": sample.get("filter"), "responses": sample["filtered_resps"]}
            row["texts"] = sample["resps"]
            rows.append(row | {metric: sample[metric] for metric in metrics if metric in sample})
        write(work / "answers" / f"{name}.jsonl", rows)
        print(f"{name}: {len(rows)} rows, {time.process_time() - started:.1f} CPU s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
