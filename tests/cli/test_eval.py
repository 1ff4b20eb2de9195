"""`marin eval`: a model by its place, a table of scores with error bars, and what is refused."""

import json
import shutil
from pathlib import Path

import jax
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marin.evaluation import run_tasks
from marin.evaluation.results import read_results, read_samples
from marin.evaluation.tasks import prompt_hash
from marin.execution.executor import Executor, ExecutorStep, this_output_path
from marin.export.hf import save_hf
from marin.models.llama import LlamaConfig
from marin.processing.tokenize.tokenizer import load_tokenizer
from marin.testing.tasks import write_task_data
from marin.testing.tiny import write_byte_tokenizer

MODEL = LlamaConfig(seq_len=96, hidden_dim=16, intermediate_dim=24, num_heads=2, num_kv_heads=1, num_layers=1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    tokenizer = write_byte_tokenizer(root / "tokenizer")
    save_hf(MODEL, MODEL.init(257, key=jax.random.key(0)), 257, tokenizer, root / "model")
    return root / "model"


@pytest.fixture
def place(folder: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`model/` from elsewhere, `data/`, and nothing in the environment that names data."""
    for name in ("MARIN_EVAL_DATA", "MARIN_SHARED_DATA"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(exported, folder / "model")
    write_task_data(folder / "data")
    return folder


def test_a_table_of_scores_with_their_errors_and_what_was_skipped(place: Path, marin):
    found = marin("eval", "model", "--tasks", "copa,arc_easy@2,piqa", "--data", "data", "--limit", "6")
    lines = found.out.splitlines()
    assert lines[0].split() == ["task", "shots", "n", "metric", "value", "±", "SE", "chance"]
    results = only_results(place / "evaluations" / "model")
    acc = results["tasks"]["copa"]["metrics"]["acc"]
    [copa] = [line for line in lines if line.startswith("copa")]
    assert copa.split()[1:5] == ["0", "6", "of", "8"] and f"{acc['value']:.2f}" in copa and "±" in copa
    assert copa.split()[-1] == "0.5000"
    assert any(line.startswith("arc_easy") and line.split()[1] == "2" for line in lines)
    assert "unverified: no parity.json" in found.err
    assert "1 task was skipped:" in found.err and "piqa: " in found.err
    assert "to fetch: marin data download hf" in found.err
    assert results["model"]["verified"] is False


def test_a_file_of_questions_is_asked_by_its_path(place: Path, marin):
    rows = [{"query": f"{n} and", "choices": ["one", "two"], "gold": n % 2} for n in range(6)]
    (place / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    marin("eval", "model", "--tasks", "copa,own=mine.jsonl@1", "--data", "data", "-o", "out")
    entry = read_results(place / "out")["tasks"]["own"]
    assert (entry["n"], entry["num_fewshot"], entry["files"]) == (6, 1, ["mine.jsonl"])
    assert "no file none.jsonl" in marin("eval", "model", "--tasks", "none.jsonl", expect=2).err


def test_a_candidate_that_the_model_cannot_read_skips_its_task_alone(place: Path, marin):
    rows = [{"query": "q", "choices": ["a " * 90 if n == 2 else "one", "two"], "gold": 1} for n in range(4)]
    (place / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = marin("eval", "model", "--tasks", "long=long.jsonl,copa", "--data", "data", "-o", "out")
    results = read_results(place / "out")
    assert list(results["tasks"]) == ["copa"] and [each["task"] for each in results["skipped"]] == ["long"]
    assert "task 'long', question 2: continuation" in found.err and "the model reads 96" in found.err


@pytest.mark.parametrize("gold", [True, "A", None, 1.0])
def test_a_wrong_gold_names_its_row(place: Path, marin, gold: object):
    rows = [{"query": "q", "choices": ["a", "b"], "gold": 0}, {"query": "q", "choices": ["a", "b"], "gold": gold}]
    (place / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = marin("eval", "model", "--tasks", "own.jsonl", "--data", "data", expect=2).err
    assert "line 2" in said and f"gold is {gold!r}; expected the index of the right choice" in said


def test_groups_come_first_and_their_tasks_when_asked_for(place: Path, marin):
    rows = [{"question": f"q{n}", "choices": ["a", "b", "c", "d"], "answer": n, "subject": "x"} for n in range(4)]
    for subject in ("anatomy", "virology"):
        folder = place / "data" / "hub" / "cais" / "mmlu" / subject
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / "test-00000.parquet")
    command = ("eval", "model", "--tasks", "mmlu", "--data", "data", "-o", "out")
    shown = marin(*command).out.splitlines()
    assert shown[1].split()[0] == "mmlu" and shown[1].split()[-1] == "0.2500"
    assert not any("anatomy" in line for line in shown)
    assert any(line.startswith("mmlu_anatomy") for line in marin(*command, "--subtasks").out.splitlines())


def test_many_tasks_without_data_are_one_line_and_one_command(place: Path, marin):
    found = marin("eval", "model", "--tasks", "mmlu", "--data", "data", expect=1).err
    assert "mmlu_abstract_algebra and 56 more of the same data" in found
    assert found.count("to fetch: ") == 1 and "'*/test-*.parquet'" in found
    assert "none of the 57 tasks could be asked" in found


def test_results_do_not_go_into_the_model(place: Path, marin):
    assert "the model's own folder" in marin(*ASKED, "-o", "model", expect=2).err


def test_progress_tells_requests_a_second(place: Path, marin):
    found = marin("eval", "model", "--tasks", "copa", "--data", "data", "-o", "out")
    assert "copa: 16 of 16 requests" in found.err and "a second" in found.err


def test_results_as_one_json_object(place: Path, marin):
    found = marin("eval", "model", "--tasks", "copa", "--data", "data", "-o", "out", "--json")
    assert json.loads(found.out)["results"]["tasks"]["copa"] == read_results(place / "out")["tasks"]["copa"]


def test_a_step_is_evaluated_by_its_address(place: Path, marin):
    step = ExecutorStep(
        name="models/tiny", fn=copy_model, config={"from": str(place / "model"), "to": this_output_path()}
    )
    Executor("store").run([step])
    marin("eval", "models/tiny", "--tasks", "copa", "--data", "data")
    [folder] = (place / "evaluations").glob("models-tiny@*")
    assert only_results(folder)["tasks"]["copa"]["n"] == 8


@pytest.mark.parametrize("command", ["eval", "generate"])
def test_a_model_of_the_hub_is_taken_from_the_local_cache(
    place: Path, marin, monkeypatch: pytest.MonkeyPatch, command: str
):
    monkeypatch.setenv("HF_HUB_CACHE", str(place / "hub"))
    repository = place / "hub" / "models--us--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    shutil.copytree(place / "model", repository / "snapshots" / "abc")
    asked = {"eval": ["--tasks", "copa", "--data", "data"], "generate": ["--prompt", "a", "--max-new-tokens", "2"]}
    of_hub, of_folder = (marin(command, where, *asked[command], "--json") for where in ("hf://us/tiny", "model"))
    ours, theirs = json.loads(of_hub.out), json.loads(of_folder.out)
    if command == "eval":
        assert ours["results"]["tasks"] == theirs["results"]["tasks"]
        assert only_results(place / "evaluations" / "us-tiny")["identity"] == ours["results"]["identity"]
    else:
        assert ours == theirs
    missing = marin(command, "hf://us/other", *asked[command], expect=2)
    assert "hf://us/other is not in the local cache" in missing.err and "hf download us/other" in missing.err


@pytest.mark.parametrize("eos", [256, [256, 3]])
def test_a_tokenizer_that_names_no_end_of_text_takes_that_of_the_model(place: Path, marin, eos: int | list[int]):
    file = place / "model" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": None}))
    described = place / "model" / "config.json"
    description = json.loads(described.read_text())
    (place / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": None}))
    described.write_text(json.dumps({**description, "eos_token_id": None}))
    told = marin("eval", "model", "--tasks", "copa", "--data", "data", expect=2).err
    assert "does not say which token ends a text" in told
    (place / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    marin("eval", "model", "--tasks", "copa", "--data", "data")
    assert load_tokenizer(place / "model").eos_id == 256


ASKED = ("eval", "model", "--tasks", "copa", "--data", "data", "--limit", "4")


def test_the_same_evaluation_is_found_done_and_another_stands_beside_it(place: Path, marin):
    first = marin(*ASKED)
    [folder] = (place / "evaluations" / "model").iterdir()
    assert folder.name == f"copa-{read_results(folder)['identity'][:8]}" and f"{folder.name}" in first.err
    before = (folder / "results.json").stat().st_mtime_ns
    again = marin(*ASKED)
    assert "done already, nothing is asked again" in again.err and again.out == first.out
    assert json.loads(marin(*ASKED, "--json").out)["results"] == read_results(folder)
    marin(*ASKED, "--shots", "1")
    marin(*ASKED[:-1], "3")
    save_hf(MODEL, MODEL.init(257, key=jax.random.key(1)), 257, place / "model", place / "elsewhere" / "model")
    marin("eval", str(place / "elsewhere" / "model"), *ASKED[2:])  # of the same name
    config = place / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 0.1}))
    marin(*ASKED)
    assert len(list((place / "evaluations" / "model").iterdir())) == 4
    marin("eval", str(place / "model"), *ASKED[2:])  # by its whole path it is the same model
    assert len(list((place / "evaluations" / "model").iterdir())) == 4
    assert (folder / "results.json").stat().st_mtime_ns == before


def test_the_same_command_on_changed_data_or_by_another_version_stands_apart_and_says_why(
    place: Path, marin, monkeypatch: pytest.MonkeyPatch
):
    marin(*ASKED)
    [folder] = (place / "evaluations" / "model").iterdir()
    before = (folder / "results.json").read_bytes()
    copa = place / "data/mosaic/commonsense_reasoning/copa.jsonl"
    rows = copa.read_text()
    copa.write_text(rows.replace("twice", "again"))
    (place / "evaluations/model/damaged").mkdir()
    (place / "evaluations/model/damaged/results.json").write_text("{")
    told = marin(*ASKED).err
    assert f"not the evaluation in evaluations/model/{folder.name}: task 'copa' asked other questions" in told
    copa.write_text(rows)
    monkeypatch.setattr("marin.evaluation.run_tasks.EVALUATION_VERSION", 1000)
    told = marin(*ASKED).err
    assert f"{folder.name}: as it was scored by evaluation version" in told and "and this is 1000" in told
    assert len(list((place / "evaluations" / "model").glob("copa-*"))) == 3
    assert (folder / "results.json").read_bytes() == before


def test_a_named_folder_with_another_evaluation_is_refused(place: Path, marin):
    marin(*ASKED, "-o", "out")
    before = (place / "out" / "results.json").read_bytes()
    refused = marin(*ASKED[:-1], "3", "-o", "out", expect=2).err
    assert "has the results of another evaluation (config: limit 4, now 3" in refused
    assert (place / "out" / "results.json").read_bytes() == before
    assert "done already" in marin(*ASKED, "-o", "out").err


def only_results(folder: Path) -> dict:
    [found] = folder.glob("*/results.json")
    return read_results(found)


def copy_model(config: dict) -> None:
    shutil.copytree(config["from"], config["to"], dirs_exist_ok=True)


@pytest.mark.parametrize("file", ["results.json", "samples.jsonl"])
def test_damaged_results_are_made_again_and_that_is_said(place: Path, marin, file: str):
    command = (*ASKED, "-o", "scores")
    marin(*command)
    path = place / "scores" / file
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2].rpartition(b"\n")[0] + b"\n")
    assert "scored again: " in marin(*command).err
    assert path.read_bytes() == whole
    assert "done already" in marin(*command).err


def test_a_run_that_was_stopped_goes_on_behind_the_last_task_done(place: Path, marin, monkeypatch: pytest.MonkeyPatch):
    asked = ["eval", "model", "--tasks", "copa,arc_easy", "--data", "data", "-o", "out"]
    with monkeypatch.context() as patch:
        patch.setattr("marin.evaluation.run_tasks.ask", stop_at_the_second(run_tasks.ask))
        marin(*asked, expect=2)
    again = marin(*asked)
    assert "copa:" not in again.err  # nothing of it was asked again
    assert set(read_results(place / "out")["tasks"]) == {"copa", "arc_easy"}


def stop_at_the_second(function):
    calls = []

    def called(*arguments, **settings):
        calls.append(arguments)
        if len(calls) == 2:
            raise ValueError("stopped")
        return function(*arguments, **settings)

    return called


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["model", "--tasks", "arc_esy"], "did you mean 'arc_easy'"),
        (["model", "--tasks", "copa", "--limit", "0"], "--limit 0: expected 1 or more"),
        (["model", "--tasks", "copa", "--every", "5"], "--every goes with --all-checkpoints"),
        (["model", "--tasks", "copa", "--checkpoint", "7"], "is an exported model, which has no checkpoints"),
        (["model", "--tasks", "copa", "--data", "nowhere"], "no folder of evaluation data at nowhere"),
        (["modell", "--tasks", "copa"], "no folder 'modell', and"),
        (["data", "--tasks", "copa"], "no model at data: expected a folder in the Hugging Face format"),
        (["model", "--tasks", "copa", "--include", "data"], "--include goes with --harness"),
        (["model", "--tasks", "copa", "--chat"], "no chat template, so it cannot be asked in one: put a chat_template"),
        (["model", "--tasks", "copa", "--single-turn"], "--single-turn and --system go with --chat"),
    ],
)
def test_what_makes_no_sense_is_refused(place: Path, marin, arguments: list[str], told: str):
    assert told in marin("eval", *arguments, expect=2).err


CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def test_a_chat_template_asks_otherwise_and_is_another_evaluation(place: Path, marin):
    (place / "model" / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    asked = ("eval", "model", "--tasks", "copa@1", "--data", "data", "--limit", "3")
    marin(*asked, "-o", "plain")
    marin(*asked, "--chat", "-o", "chat")
    plain, chat = read_results(place / "plain"), read_results(place / "chat")
    assert "chat" not in plain["config"]
    assert chat["config"]["chat"] == {
        "fewshot_as_multiturn": True,
        "system_instruction": None,
        "template": prompt_hash([CHAT_TEMPLATE]),
    }
    assert plain["tasks"]["copa"]["prompt_hash"] != chat["tasks"]["copa"]["prompt_hash"]
    # the candidate's delimiter is gone, and the blank that ends the template is scored instead
    before, after = (next(iter(read_samples(place / out))) for out in ("plain", "chat"))
    assert before["num_tokens"] == after["num_tokens"] and before["log_probs"] != after["log_probs"]
    refused = marin(*asked, "--chat", "--single-turn", "-o", "chat", expect=2).err
    assert "has the results of another evaluation" in refused and '"fewshot_as_multiturn": false' in refused


def test_a_folder_without_safetensors_is_refused(place: Path, marin):
    (place / "model" / "model.safetensors").unlink()
    assert "no weights at model: expected model.safetensors" in marin("eval", "model", "--tasks", "copa", expect=2).err


def test_no_data_for_any_task_is_a_failure_that_tells_what_to_fetch(place: Path, marin):
    found = marin("eval", "model", "--tasks", "piqa", expect=1)
    assert "none of the 1 tasks could be asked" in found.err and "--out eval_data/hub" in found.err
