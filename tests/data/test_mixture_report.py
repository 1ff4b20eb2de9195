"""What a run will take from its sources, counted against the rows that it does take."""

import numpy as np
import pytest

from marin.data.batch_schedule import BatchSchedule, ScheduleStep
from marin.data.dataset import row_dataset
from marin.data.loader import DataLoader
from marin.data.mixture import Mixture
from marin.data.mixture_report import mixture_report, report_lines
from marin.testing.tiny import make_token_store


@pytest.fixture(scope="module")
def loader(tmp_path_factory) -> DataLoader:
    folder = tmp_path_factory.mktemp("stores")
    sources = {name: row_dataset(make_token_store(folder / name, 8), 16, "concatenate") for name in ("web", "code")}
    weights = [(0, {"web": 3.0, "code": 1.0}), (50, {"code": 1.0}), (900, {"web": 1.0})]
    mixture = Mixture(sources, seed=0, weights=weights, block_size=8)
    return DataLoader(mixture, BatchSchedule([ScheduleStep(0, 4), ScheduleStep(10, 8)]))


def test_the_report_counts_what_the_batches_hold(loader: DataLoader):
    report = mixture_report(loader, 30)
    source, _ = loader.mixture.locate(np.arange(10 * 4 + 20 * 8))
    assert report.num_rows == source.size
    for which, name in enumerate(("code", "web")):
        taken = report.sources[name]
        assert taken.rows_used == (source == which).sum()
        assert taken.epochs == taken.rows_used / taken.num_rows
    assert sum(stage.num_rows for stage in report.stages) == report.num_rows
    assert [(stage.first_row, stage.first_update, stage.rows_of_a_block) for stage in report.stages] == [
        (0, 1, {"web": 6, "code": 2}),
        (50, 12, {"web": 0, "code": 8}),  # row 50 is of the batch of rows 48 to 55, the twelfth
    ]


def test_the_table_has_a_line_a_source_and_a_column_a_stage(loader: DataLoader):
    title, header, *lines = report_lines(mixture_report(loader, 30))
    assert title.startswith("200 rows in 30 updates; weights met in every 8 rows; stop_strategy 'restart'")
    assert header.split("  ")[0] == "source" and "from update 1 " in header and "from update 12" in header
    assert [line.split()[0] for line in lines] == ["code", "web"]
    assert "75.00%" in lines[1] and "100.00%" in lines[0]
    assert len({len(line) for line in (header, *lines)}) == 1


def test_more_updates_than_there_are_batches_are_refused(loader: DataLoader):
    mixture = Mixture(
        dict(zip(loader.mixture.names, loader.mixture.sources, strict=True)), seed=0, stop_strategy="first_exhausted"
    )
    ends = DataLoader(mixture, 4)
    assert mixture_report(ends, ends.num_steps or 0).available_steps == ends.num_steps
    with pytest.raises(ValueError, match="Train for .* steps or fewer"):
        mixture_report(ends, 10_000)
