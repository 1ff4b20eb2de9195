"""Edited code: noticed, named, and never a reason to rerun by itself."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from marin.execution.executor import Executor, ExecutorStep
from marin.execution.fingerprint import code_changed, code_of

MODULE = '''
"""A module."""
import json
from os.path import join as joined

LIMIT = 3


def helper(x):
    """Doubles."""
    return x * 2  # twice


class Unrelated:
    pass


def work(config):
    """Works."""
    return helper(LIMIT), joined("a", "b")
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A module `fp_package.inner` that nobody imported, with a parent that would raise."""
    folder = tmp_path / "fp_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported while planning')\n")
    (folder / "inner.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return SimpleNamespace(file=folder / "inner.py", fn="fp_package.inner:work", folder=tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "is_change"),
    [
        ("x * 2", "x * 3", True),
        ("LIMIT = 3", "LIMIT = 4", True),
        ("path import join as", "path import split as", True),
        ("helper(LIMIT)", "helper( LIMIT )", False),
        ('"""Doubles."""', '"""Doubles what it gets."""\n', False),
        ("class Unrelated:", "class Renamed:", False),
        ("import json\n", "import json, abc\n", False),
        ("x * 2", "2 * x", True),
    ],
    ids=str,
)
def test_only_what_the_function_reaches_counts_and_only_its_meaning(module, old: str, new: str, is_change: bool):
    record = code_of(module.fn)
    assert record["code_fingerprint"] is not None
    assert not code_changed(module.fn, record)
    assert old in MODULE
    module.file.write_text(MODULE.replace(old, new) + "\n")
    assert code_changed(module.fn, record) is is_change
    assert "fp_package" not in sys.modules


def test_what_has_no_source_has_no_fingerprint_and_no_complaint(module):
    for fn in (len, "no.such:thing", "fp_package.inner:missing", "sys:exit"):
        assert code_of(fn)["code_fingerprint"] is None
        assert not code_changed(fn, {"code_fingerprint": "0" * 64, "source_sha256": None})
    module.file.write_text("def work(:\n")
    assert code_of(module.fn)["code_fingerprint"] is None


def test_plan_and_run_mark_a_cached_step_whose_code_changed(module):
    (module.folder / "fp_package" / "__init__.py").write_text("")
    step = ExecutorStep(name="a", fn=module.fn, config=1)
    store = module.folder / "store"
    first = Executor(store, fsync=False, quiet=True).run([step])
    assert first.is_ok
    assert first.plan.items[0].state is None
    executor = Executor(store, fsync=False, stream=(out := io.StringIO()))
    assert [(i.action, i.code_changed) for i in executor.plan([step])] == [("HIT", False)]
    module.file.write_text(MODULE.replace("x * 2", "x * 3"))
    assert [(i.action, i.code_changed) for i in executor.plan([step])] == [("HIT", True)]
    again = executor.run([step])
    assert again[step].action == "cached"
    assert "note: a: code changed since this output was made; raise code_version to run it again" in out.getvalue()
    executor.run([step], dry_run=True)
    assert "cached      code changed since" in out.getvalue()
    raised = ExecutorStep(name="a", fn=module.fn, config=1, code_version="2")
    assert [i.code_changed for i in executor.plan([raised])] == [False]
