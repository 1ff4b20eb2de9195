"""What every committed file must keep to."""

import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

# Written so that this file does not name them itself.
REGISTRY_HOSTS = re.compile(
    "|".join(["pypi" + r"\.org", "python" + "hosted", "npm" + r"js\.(org|com)", "deb" + r"\.debian\.org"])
)


@pytest.fixture(scope="module")
def committed(repository: Path) -> list[Path]:
    run = subprocess.run(["git", "ls-files"], cwd=repository, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("not a git checkout, so there is no list of committed files")
    return [repository / name for name in run.stdout.splitlines() if (repository / name).is_file()]


def test_no_committed_file_names_a_package_registry(committed: list[Path]):
    naming = [p for p in committed if REGISTRY_HOSTS.search(p.read_text(encoding="utf-8", errors="ignore"))]
    assert not naming


def test_the_lock_pins_every_requirement_with_a_hash(repository: Path):
    lines = (repository / "requirements.lock").read_text(encoding="utf-8").splitlines()
    requirements = [i for i, line in enumerate(lines) if "==" in line]
    assert len(requirements) > 50
    assert all(lines[i].endswith("\\") and "--hash=sha256:" in lines[i + 1] for i in requirements)


def test_the_map_of_the_executor_names_every_file_of_it(repository: Path):
    text = (repository / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = re.search(r"^## Inside `execution`\n(.*?)^## ", text, flags=re.MULTILINE | re.DOTALL)
    assert section is not None
    files = {p.stem for p in (repository / "src/marin/execution").glob("*.py") if p.stem != "__init__"}
    named = set(re.findall(r"`(\w+)/?`", section[1])) - {"execution"}
    assert named == files | {"schemas"}


def test_large_files_stay_out_of_the_repository(committed: list[Path]):
    assert not [p for p in committed if p.stat().st_size > 1_000_000]


def test_no_script_stands_beside_a_module_that_has_the_name_of_a_package(committed: list[Path], repository: Path):
    """A script's folder comes first on the path, so such a module would be imported in place of the package."""
    packages = packages_distributions().keys() | sys.stdlib_module_names
    beside = [p for p in committed if p.suffix == ".py" and (repository / "experiments") in p.parents]
    assert [p for p in beside if p.stem in packages - {"__init__"}] == []
