"""What is drawn before a run is what the run will do."""

from xml.etree import ElementTree

import numpy as np
import pytest

from marin.data.batch_schedule import BatchSchedule, ScheduleStep
from marin.data.dataset import row_dataset
from marin.data.mixture import Mixture
from marin.testing.tiny import make_token_store
from marin.training.preview import Preview


@pytest.fixture(scope="module")
def preview(tmp_path_factory) -> Preview:
    root = tmp_path_factory.mktemp("preview")
    sources = {
        name: row_dataset(make_token_store(root / name, 30, seed=i), 16, "concatenate") for i, name in enumerate("a<")
    }
    return Preview(
        num_train_steps=48,
        learning_rate=lambda step: min(step + 1, 12) / 1200,
        batches=BatchSchedule((ScheduleStep(start=0, value=2), ScheduleStep(start=24, value=6))),
        mixture=Mixture(sources, seed=0, weights={"a": 0.75, "<": 0.25}, block_size=8),
    )


def test_shares_are_those_of_the_rows_that_the_loader_gives(preview):
    edges, shares = preview.shares(4)
    assert edges == [0, 12, 24, 36, 48]
    for start, end, part in zip(edges, edges[1:], shares, strict=False):
        positions = np.arange(preview.batches.offset(start), preview.batches.offset(end))
        source, _ = preview.mixture.locate(positions)
        assert part == [pytest.approx(np.mean(source == which)) for which in (0, 1)]


def test_the_text_has_each_schedule_and_what_is_taken_of_each_source(preview):
    text = preview.text()
    assert text.startswith("learning rate, 0 to 0.01\n")
    assert "batch size, rows, 0 to 6\n" in text and "mixture, share of the rows\n" in text
    assert "| 75.0%, 144 rows, " in text and "| 25.0%, 48 rows, " in text


def test_the_figure_is_well_formed_and_the_same_each_time(preview):
    figure = preview.svg()
    assert figure == preview.svg()
    root = ElementTree.fromstring(figure)
    space = "{http://www.w3.org/2000/svg}"
    (rates, sizes) = root.findall(f"{space}polyline")
    assert len(rates.get("points", "").split()) == 48
    heights = [float(point.split(",")[1]) for point in sizes.get("points", "").split()]
    assert heights[0] == pytest.approx(240 + 120 * (1 - 2 / 6), abs=0.01) and heights[-1] == 240
    assert len(root.findall(f"{space}polygon")) == 2
    assert [text.text for text in root.findall(f"{space}text")][-2:] == ["<", "a"]
