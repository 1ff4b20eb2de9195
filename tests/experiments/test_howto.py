"""The guide's experiments plan from the download on, by command, from any folder."""

import json
import re
from pathlib import Path

import pytest

from marin.cli import main as cli

DATA = {
    f"{stage}/{name}" for name in ("dclm_baseline", "starcoderdata", "proofpile_2") for stage in ("raw", "tokenized")
}


@pytest.mark.parametrize(
    ("script", "model", "num_steps"),
    [
        ("exp1077_reproduce_dclm_1b1x.py", "dclm_1b_1x_how_to", 54931),
        ("exp1078_reproduce_dclm_7b1x.py", "dclm_7b_1x_how_to", 33378),
    ],
)
def test_a_published_recipe_is_planned_in_full(
    repository: Path, tmp_path: Path, monkeypatch, capfd, script: str, model: str, num_steps: int
):
    monkeypatch.chdir(tmp_path)
    path = str(repository / "experiments" / "howto" / script)
    assert cli.main(["plan", path, "--json"]) == 0
    steps = {step["name"] for step in json.loads(capfd.readouterr().out)["steps"]}
    assert steps == {*DATA, "tokenizers/llama3", f"checkpoints/{model}"}
    assert cli.main(["plan", path, "--config", model]) == 0
    assert re.search(rf"num_train_steps: {num_steps}\b", capfd.readouterr().out)
