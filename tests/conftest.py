"""Fixtures that more than one area needs."""

import os
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from document_folders import write_shards
from s3_server import Doorkeeper

# How long an example takes says what else the machine does, and the first one compiles. Laws that do not say how many
# examples they need get a quarter of hypothesis's own number; HYPOTHESIS_EXAMPLES=1000 is for whoever changes one.
settings.register_profile("laws", deadline=None, max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "25")))
settings.load_profile("laws")

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
        "marin.export.gemma",
        "marin.export.gemma2",
        "marin.export.gemma3",
        "marin.export.gpt2",
        "marin.export.hf",
        "marin.export.layout",
        "marin.export.llama",
        "marin.export.mistral",
        "marin.export.mixtral",
        "marin.export.olmo2",
        "marin.export.qwen2",
        "marin.export.qwen3",
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

# What takes over a minute begins, so that no worker of `make test` is left alone with it at the end.
LONGEST = (
    "tests/contracts/test_models.py",
    "tests/execution/test_on_ray.py",
    "tests/end_to_end/test_quickstart.py",
    "tests/training/test_killed_runs.py",
    "tests/cluster/test_ray_cluster.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


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


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """http://HOST:PORT of an S3 server that lives in this process."""
    moto = pytest.importorskip("moto.server", reason="needs moto: pip install -e '.[dev]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_door(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Doorkeeper]:
    """The doorkeeper of the S3 server; this process and its children use the server through it."""
    pytest.importorskip("obstore", reason="needs obstore: pip install -e '.[remote]'")
    door = Doorkeeper(s3_server)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", door.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    yield door
    door.close()


@pytest.fixture
def s3_prefix(s3_door: Doorkeeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix in an empty bucket; copies go to a folder of this test."""
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    request = urllib.request.Request(f"http://{s3_door.behind}/{bucket}", method="PUT")
    urllib.request.urlopen(request).close()
    monkeypatch.setenv("MARIN_SCRATCH", str(tmp_path / "scratch"))
    return f"s3://{bucket}/exp"


@pytest.fixture
def documents(tmp_path: Path) -> Callable[..., Path]:
    """`documents(rows, more_rows)`: a folder with these shards."""
    made = iter(range(100))
    return lambda *shards: write_shards(tmp_path / f"documents-{next(made)}", shards)
