"""Compel: the 1.4B runs plan in full, and the twin trains on windows of the ratios that were measured."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from marin.execution.executor import plan, run
from marin.training.config import TrainLmConfig


@pytest.fixture
def on_path(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository))


def test_every_window_is_planned_over_ratios_that_are_measured_once(on_path: None, tmp_path: Path):
    from experiments.compel.exp633_compel import SET_NAMES, WINDOWS, compel, published

    steps = compel(published())
    assert len(steps) == len(SET_NAMES) * (1 + len(WINDOWS))
    names = [item.node.name for item in plan(list(steps.values()), prefix=str(tmp_path)).items]
    assert [name for name in names if name.startswith("signals/")] == [f"signals/compel/{name}" for name in SET_NAMES]
    assert sum(name.startswith("filtered/") for name in names) == len(SET_NAMES) * len(WINDOWS)
    config = steps["compel-fineweb-baseline"].config
    assert isinstance(config, TrainLmConfig)
    tokens = config.trainer.num_train_steps * 1024 * 4096
    assert 0.99 < tokens / 28e9 <= 1


@pytest.mark.slow
def test_the_twin_trains_on_what_lies_in_its_window(on_path: None, tmp_path: Path):
    from experiments.compel.exp633_twin import Twin, twin

    steps = twin(Twin(num_train_steps=2, max_documents=40))
    result = run(list(steps.values()), prefix=tmp_path / "store")
    assert result.is_ok
    [signals] = [Path(folder) for folder in (tmp_path / "store/signals/compel-twin").iterdir()]
    ratios = [row for path in signals.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    for low, high in ((0.36, 0.52), (0.43, 0.7)):
        [kept] = (tmp_path / "store/filtered/compel-twin").glob(f"standard_library-lz4-{low}-{high}-*")
        names = {name for path in kept.glob("*.parquet") for name in pq.read_table(path)["id"].to_pylist()}
        assert names == {row["id"] for row in ratios if low <= row["compression.lz4"] <= high} != set()
