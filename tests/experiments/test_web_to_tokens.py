"""Web pages to tokens: the experiment's data stages on small pages, here and on a Ray cluster, with equal outputs."""

import hashlib
import html
import json
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

import marin
from marin.execution.executor import Executor, plan

ITEM = (
    "A baker has forty seven loaves on the counter and sells nineteen of them before noon to people from the village, "
    "then bakes another thirty for the evening market. How many loaves does the baker have when the market opens?"
)
COPIED, NEARLY = "assert", "assignment"
"""Topics that two more pages have: one as it is, one with another ending."""


@pytest.fixture(scope="module")
def experiment(repository: Path):
    """The script, as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository))
        from experiments.howto import web_to_tokens

        yield web_to_tokens


def page(title: str, text: str) -> str:
    paragraphs = "".join(f"<p>{html.escape(one)}</p>\n" for one in text.split("\n\n"))
    menu = "".join(f'<li><a href="{n}.html">Page {n}</a></li>' for n in range(20))
    return f"<html><body><nav><ul>{menu}</ul></nav><article><h1>{title}</h1>\n{paragraphs}</article></body></html>"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[str, str]:
    """(pages, evaluation sets): the help topics of Python as pages, with a copy, a near copy and a leaked item."""
    root = tmp_path_factory.mktemp("web")
    (root / "pages" / "more").mkdir(parents=True)
    for name, text in sorted(topics.items()):
        (root / "pages" / f"{name}.html").write_text(page(name, text))
    (root / "pages" / "more" / "copy.html").write_text(page(COPIED, topics[COPIED]))
    (root / "pages" / "more" / "nearly.html").write_text(page(NEARLY, topics[NEARLY] + "\n\nThis page has moved."))
    (root / "pages" / "more" / "leaked.html").write_text(page("Quiz", topics["lambda"] + topics["try"] + "\n\n" + ITEM))
    (root / "sets" / "loaves").mkdir(parents=True)
    row = {"question": ITEM, "answer": "#### 58"}
    (root / "sets" / "loaves" / "test.jsonl").write_text(json.dumps(row) + "\n")
    return str(root / "pages"), str(root / "sets")


def run(experiment: Any, folders: tuple[str, str], store: Path) -> tuple[dict[str, Path], Any]:
    """(output folder of each data stage, funnel) of a run in a store of its own."""
    from dataclasses import replace

    config = replace(experiment.WEB_TO_TOKENS, pages=folders[0], evaluation_sets=folders[1], vocab_size=400)
    funnel, model = experiment.web_to_tokens(config)
    result = Executor(str(store)).run([funnel])
    stages = json.loads((Path(result.output_path(funnel)) / "funnel.json").read_text())["stages"]
    places = {name: next(iter(store.glob(f"{name}-*"))) for name in STEPS}
    return places, {one["name"]: one for one in stages}


STEPS = (
    "documents/web",
    "filtered/web",
    "deduplicated/web/exact",
    "deduplicated/web/near",
    "decontaminated/web",
    "split/web",
    "tokenized/web/train",
)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of all parquet files of a folder."""
    import pyarrow.parquet as pq

    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def digests(places: dict[str, Path]) -> dict[str, str]:
    """sha256 of every data file of the stages, by step and path; without records, logs and times."""
    found = {}
    for name, folder in places.items():
        for file in sorted(folder.rglob("*")):
            place = file.relative_to(folder)
            is_data = file.suffix in (".parquet", ".zst", ".bin", ".npy") or file.name in ("_funnel.json", "store.json")
            if file.is_file() and is_data and not any(part[0] in "._" for part in place.parts[:-1]):
                found[f"{name}/{place}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def here(experiment, folders, tmp_path_factory):
    return run(experiment, folders, tmp_path_factory.mktemp("here"))


def test_the_whole_line_plans_with_and_without_a_folder_of_pages(experiment, folders, tmp_path: Path):
    names = {
        item.node.name for item in plan(experiment.web_to_tokens(experiment.WEB_TO_TOKENS), prefix=str(tmp_path)).items
    }
    assert {"raw/pydoc", "checkpoints/web", "evaluations/web", "reports/web/funnel", "reports/web/model"} <= names
    assert "decontaminated/web" not in names


def test_every_page_is_accounted_for_by_the_rule_that_took_it(here):
    places, funnel = here
    assert funnel["extracted"]["documents_in"] == len(topics) + 3
    taken = {name: sum(rule["documents"] for rule in one["rules"]) for name, one in funnel.items()}
    assert taken["exact duplicates"] == 1 and taken["near duplicates"] >= 1 and taken["evaluation items"] == 1
    titles = [json.loads(row["metadata"])["title"] for row in rows_of(places["decontaminated/web"] / "documents")]
    assert titles.count(COPIED) == 1 and titles.count(NEARLY) == 1 and "Quiz" not in titles
    left = funnel["extracted"]["documents_in"] - sum(taken.values())
    assert left == funnel["tokens"]["documents_out"] > 20
    assert funnel["tokens"]["are_tokens_counted"] and funnel["tokens"]["tokens_out"] > 0


def test_the_leaked_item_is_named_with_the_page_that_had_it(here):
    places, _ = here
    text = (places["decontaminated/web"] / "report.json").read_text()
    assert "loaves" in text
    hits = (places["decontaminated/web"] / "hits.jsonl").read_text().splitlines()
    assert len(hits) >= 1 and all("loaves" in hit for hit in hits)


@pytest.mark.slow
@pytest.mark.ray
def test_three_machines_of_a_ray_cluster_write_the_same_bytes(
    experiment, folders, here, repository: Path, tmp_path: Path, monkeypatch
):
    pytest.importorskip("ray", reason="needs Ray: pip install -e '.[ray]'")
    from ray_nodes import running_nodes

    with _cluster(running_nodes, repository) as nodes:
        monkeypatch.setenv("MARIN_DATA_BACKEND", "ray")
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        there, funnel = run(experiment, folders, tmp_path / "store")
    assert digests(there) == digests(here[0]) and len(digests(there)) > 10
    assert funnel == here[1]


def _cluster(running_nodes: Any, repository: Path) -> Any:
    from contextlib import contextmanager

    @contextmanager
    def cluster() -> Iterator[Any]:
        source = str(Path(marin.__file__).parent.parent)
        with running_nodes(source, str(repository)) as nodes:
            for _ in range(3):
                nodes.add()
            nodes.wait_for_all()
            yield nodes

    return cluster()
