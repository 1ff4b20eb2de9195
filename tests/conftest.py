"""Fixtures that more than one area needs."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# The shapes and dtypes in signatures are checked while tests run. Configs are left out: while an experiment is planned,
# their path fields hold references to steps.
install_import_hook(
    [
        "marin.data.packing",
        "marin.evaluation.baselines",
        "marin.evaluation.multiple_choice",
        "marin.evaluation.perplexity",
        "marin.evaluation.scoring",
        "marin.evaluation.statistics",
        "marin.export.gpt2",
        "marin.export.hf",
        "marin.export.llama",
        "marin.export.reference",
        "marin.export.verify",
        "marin.inference",
        "marin.models",
        "marin.optim.optimizer",
        "marin.training.loss",
        "marin.training.train_step",
    ],
    "beartype.beartype",
)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder of public data sets beside the checkout (or $MARIN_SHARED_DATA); the test skips where there is none."""
    folder = Path(os.environ.get("MARIN_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set MARIN_SHARED_DATA to a folder that has it")
    return folder
