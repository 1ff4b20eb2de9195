"""The order of the packages: each imports only those before it, so that the library reads as one line."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "marin"

# Packages of one line may import those before them in the line; every line may import the lines above it.
LAYERS = [
    ["constants", "config", "io", "cluster", "tracking", "distributed", "execution"],
    ["data", "models", "optim", "checkpoint", "inference"],
    ["download", "processing", "export", "evaluation", "training", "report"],
    ["browser", "testing", "cli"],
]
ORDER = {package: position for position, package in enumerate(p for layer in LAYERS for p in layer)}
STAGES = [*LAYERS[1], *LAYERS[2]]
MODULES = sorted(SOURCE.rglob("*.py"))


def package_of(path: Path) -> str | None:
    parts = path.relative_to(SOURCE).parts
    return parts[0].removesuffix(".py") if parts != ("__init__.py",) else None


def imports_of(path: Path) -> list[tuple[int, str]]:
    """(line, module) of every import in the file, those inside functions too; a relative import is ('.', name)."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            # `from marin import data` names a package in the list of names
            names = [f"marin.{alias.name}" for alias in node.names] if module == "marin" else [module]
            found += [(node.lineno, name) for name in names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_module_imports_only_packages_before_its_own(path: Path):
    own = package_of(path)
    assert own is None or own in ORDER, f"package '{own}' has no place in LAYERS: add it where it belongs"
    for line, module in imports_of(path):
        assert not module.startswith("."), f"{path}:{line}: relative import {module}"
        assert module.split(".")[0] != "experiments", f"{path}:{line}: the library imports experiments"
        if not module.startswith("marin."):
            continue
        other = module.split(".")[1]
        if other == own or other == "__version__":
            continue
        assert own is not None, f"{path}:{line}: `import marin` must load nothing, it loads {module}"
        assert ORDER[other] < ORDER[own], f"{path}:{line}: '{own}' imports '{other}', which comes after it"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_only_the_api_files_of_a_stage_know_the_executor(path: Path):
    if package_of(path) in STAGES and path.name != "api.py":
        for line, module in imports_of(path):
            assert not module.startswith("marin.execution"), f"{path}:{line}: only api.py may import {module}"


def modules_after(code: str) -> set[str]:
    """Names in sys.modules after running code in a fresh interpreter."""
    script = f"{code}\nimport sys; print('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


HEAVY = {"jax", "torch", "ray", "transformers", "optax", "matplotlib"}


@pytest.mark.parametrize(
    "code",
    [
        "import marin",
        "import marin.execution",
        "import marin.execution.executor",
        "import marin.processing.tokenize.api",
        "import marin.cli.main, contextlib, os\n"
        "with contextlib.redirect_stdout(open(os.devnull, 'w')), contextlib.suppress(SystemExit):\n"
        "    marin.cli.main.main(['--help'])",
    ],
)
def test_planning_loads_no_tensor_library(code: str):
    assert not modules_after(code) & HEAVY
