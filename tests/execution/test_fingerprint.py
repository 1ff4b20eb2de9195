"""Edited code: noticed, named, and never a reason to rerun by itself unless the step asks for that."""

import hashlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin.execution.canonical import UnversionableError
from marin.execution.executor import Executor, ExecutorStep
from marin.execution.fingerprint import code_changed, code_difference, code_of, matches_code
from marin.execution.graph import build_graph
from marin.execution.plan import Choices

SRC = Path(__file__).resolve().parents[2] / "src"

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
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A module `fp_package.inner` that nobody imported, with a parent that would raise."""
    folder = tmp_path / "fp_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported while planning')\n")
    (folder / "inner.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield SimpleNamespace(file=folder / "inner.py", fn="fp_package.inner:work", folder=tmp_path)
    for name in ("fp_package", "fp_package.inner"):
        sys.modules.pop(name, None)


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
        assert not code_changed(fn, {"code_fingerprint": {"root": "0" * 64, "files": {}}})
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
    assert [(i.action, bool(i.code_drift)) for i in executor.plan([step])] == [("HIT", False)]
    module.file.write_text(MODULE.replace("x * 2", "x * 3"))
    assert [(i.action, bool(i.code_drift)) for i in executor.plan([step])] == [("HIT", True)]
    again = executor.run([step])
    assert again[step].action == "cached"
    drift = rf"code drift: \S*{module.file.name}:\w+ changed since this output"
    assert re.search(f"note: a: {drift}; --strict-code runs it again", out.getvalue())
    executor.run([step], dry_run=True)
    assert len(re.findall(drift, out.getvalue())) == 2
    assert [i.action for i in executor.plan([step], choices=Choices(strict_code=True))] == ["RUN"]
    raised = ExecutorStep(name="a", fn=module.fn, config=1, code_version="2")
    assert [bool(i.code_drift) for i in executor.plan([raised])] == [False]


# -- across modules ---------------------------------------------------------------------------------------------------

PROJECT = {
    "pyproject.toml": "",
    "src/lab/__init__.py": "",
    "src/lab/work.py": '''
"""The step."""
import numpy as np
import lab.deep.tables as tables
from lab.shapes import Circle, Square
from lab.deep import halved


def work(config):
    from lab import late

    width: int = late.width()
    return halved(tables.SIZES[0]), Circle(width).area(), np.zeros(3)


def other(config):
    return Square(2)
''',
    "src/lab/late.py": """
from lab.work import work  # a cycle


def width():
    return len(numbers())


def numbers(of=lambda unrelated: unrelated):
    f"{of!r:>{3}}"
    unrelated = [1, 2]
    return [of(u) for u in unrelated]


def unrelated():
    return 4
""",
    "src/lab/shapes.py": '''
from .base import Shape, checked

PI = 3.14


class Circle(Shape):
    """Round."""

    radius: float = 1.0
    """From the middle."""

    @checked(limit=2)
    def area(self, scale=PI):
        """Its area."""
        return self.double() * scale  # nearly

    @staticmethod
    def tau():
        return 2 * PI


class Square(Shape):
    pass
''',
    "src/lab/base.py": """
import functools


def checked(limit):
    return lambda f: f


class Shape:
    def double(self):
        return 2


class Unused:
    pass
""",
    "src/lab/deep/__init__.py": '''
"""Offers what its modules have."""
from ._impl import half as halved
from ._impl import third
''',
    "src/lab/deep/_impl.py": """
def half(x):
    return x / 2


def third(x):
    return x / 3
""",
    "src/lab/deep/tables.py": """
SIZES = [1]
SIZES.append(2)
COLOURS = {}


def colour(name):
    return COLOURS[name]
""",
}


class Tree:
    """A project of one's own, that nothing imports."""

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self.folder = folder
        for name, text in files.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert text.count(old) == 1, (name, old)
        self.write(name, text.replace(old, new))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tree]:
    monkeypatch.syspath_prepend(tmp_path / "lab" / "src")
    yield Tree(tmp_path / "lab", PROJECT)
    assert not any(name.partition(".")[0] == "lab" for name in sys.modules), "the project was imported"


WORK = "lab.work:work"
IMPL, SHAPES, LATE = "src/lab/deep/_impl.py", "src/lab/shapes.py", "src/lab/late.py"


def test_a_record_names_every_definition_reached_in_every_module(lab: Tree):
    record = code_of(WORK)["code_fingerprint"]
    assert {path: sorted(file["definitions"]) for path, file in record["files"].items()} == {
        "lab/__init__.py": [],  # looked through: it could have said what lab.late is
        "lab/base.py": ["Shape", "checked"],
        "lab/deep/__init__.py": ["halved"],
        "lab/deep/_impl.py": ["half"],
        "lab/deep/tables.py": ["SIZES"],
        "lab/late.py": ["numbers", "width"],
        "lab/shapes.py": ["Circle", "PI"],
        "lab/work.py": ["work"],
    }
    for path, file in record["files"].items():
        assert file["sha256"] == hashlib.sha256((lab.folder / "src" / path).read_bytes()).hexdigest()
    assert str(lab.folder) not in json.dumps(record)


@pytest.mark.parametrize(
    ("file", "old", "new", "difference"),
    [
        pytest.param(IMPL, "x / 2", "x / 4", ["lab/deep/_impl.py:half"], id="behind a re-export"),
        pytest.param(IMPL, "x / 3", "x / 4", [], id="beside it"),
        pytest.param("src/lab/deep/tables.py", "append(2)", "append(3)", ["lab/deep/tables.py:SIZES"], id="import as"),
        pytest.param("src/lab/deep/tables.py", "COLOURS = {}", "COLOURS = {1: 2}", [], id="not asked of that module"),
        pytest.param(
            LATE, "[1, 2]", "[1, 3]", ["lab/late.py:numbers"], id="import inside the function, two calls away"
        ),
        pytest.param(LATE, "return 4", "return 5", [], id="called like a local variable"),
        pytest.param(SHAPES, "2 * PI", "3 * PI", ["lab/shapes.py:Circle"], id="another method of the class"),
        pytest.param(SHAPES, "PI = 3.14\n", "PI = 3.1416\n", ["lab/shapes.py:PI"], id="constant in a default"),
        pytest.param(SHAPES, "limit=2", "limit=3", ["lab/shapes.py:Circle"], id="argument of a decorator"),
        pytest.param("src/lab/base.py", "lambda f: f", "lambda f: None", ["lab/base.py:checked"], id="decorator"),
        pytest.param("src/lab/base.py", "return 2", "return 3", ["lab/base.py:Shape"], id="base class"),
        pytest.param("src/lab/work.py", "width: int", "width: float", ["lab/work.py:work"], id="annotation"),
        pytest.param("src/lab/work.py", "return Square(2)", "return Square(3)", [], id="another step's function"),
        pytest.param("src/lab/work.py", "numpy as", "cupy as", ["lab/work.py:work"], id="other package by that name"),
        pytest.param(SHAPES, '"""Its area."""', '"""Its surface."""', [], id="docstring"),
        pytest.param(SHAPES, '"""From the middle."""', '"""To it."""\n', [], id="docstring of a field"),
        pytest.param(SHAPES, "# nearly", "# quite", [], id="comment"),
        pytest.param(SHAPES, "self.double() * scale", "(\n  self.double()\n  * scale)", [], id="layout"),
        pytest.param(SHAPES, "class Square(Shape):\n    pass\n", "", [], id="an unreached class is removed"),
        pytest.param(
            "src/lab/deep/__init__.py",
            "import half as halved",
            "import third as halved",
            ["lab/deep/__init__.py:halved", "lab/deep/_impl.py:third", "lab/deep/_impl.py:half"],
            id="changed, appeared, vanished",
        ),
        pytest.param(
            LATE,
            "return len(numbers())",
            "return len(numbers()) + unrelated()",
            ["lab/late.py:width", "lab/late.py:unrelated"],
            id="uses more",
        ),
        pytest.param(LATE, "def unrelated", "def len", ["lab/late.py:len"], id="a builtin's name"),
    ],
)
def test_the_difference_is_what_is_reached_and_what_it_means(
    lab: Tree, file: str, old: str, new: str, difference: list[str]
):
    record = code_of(WORK)
    assert code_difference(WORK, record) == []
    lab.edit(file, old, new)
    assert code_difference(WORK, record) == difference
    assert code_changed(WORK, record) is bool(difference)
    assert (code_of(WORK)["code_fingerprint"]["root"] == record["code_fingerprint"]["root"]) is not bool(difference)


def test_the_comparisons_of_one_plan_look_at_the_files_once(lab: Tree):
    record, memo = code_of(WORK), {}
    lab.edit(IMPL, "x / 2", "x / 4")
    assert code_difference(WORK, record, memo=memo) == ["lab/deep/_impl.py:half"]
    lab.edit(IMPL, "x / 4", "x / 2")
    assert code_difference(WORK, record, memo=memo) == ["lab/deep/_impl.py:half"]
    assert code_difference(WORK, record, memo={}) == []


def test_a_module_that_is_handed_around_counts_whole(lab: Tree):
    lab.edit("src/lab/work.py", "tables.SIZES[0]", "getattr(tables, config.name)")
    record = code_of(WORK)
    lab.edit("src/lab/deep/tables.py", "COLOURS[name]", "COLOURS.get(name)")
    assert code_difference(WORK, record) == ["lab/deep/tables.py:colour"]


def test_names_come_through_every_kind_of_package_and_import(lab: Tree):
    for name, text in {
        "src/lab/deep/more.py": "from . import _impl\n\n\ndef work(config):\n    return _impl.third(config)\n",
        "src/lab/offers/__init__.py": "from . import inner\n\n\ndef four(config):\n    return inner.f()\n",
        "src/lab/offers/inner.py": "def f():\n    return 5\n",
        "src/lab/space/maker.py": "def make():\n    return 1\n",
        "src/lab/stars.py": "from lab.space.maker import *\n",
        "src/lab/lazy.py": "def __getattr__(name):\n    return 7\n",
        "src/lab/user.py": (
            "import lab.space.maker\nfrom lab import lazy\nfrom lab.stars import make\n\n\n"
            "def one(config):\n    return lab.space.maker.make()\n\n\n"
            "def two(config):\n    return make()\n\n\n"
            "def three(config):\n    return lazy.anything\n"
        ),
    }.items():
        lab.write(name, text)
    functions = ["lab.user:one", "lab.user:two", "lab.user:three", "lab.offers:four", "lab.deep.more:work"]
    records = {name: code_of(name) for name in functions}
    lab.edit("src/lab/space/maker.py", "return 1", "return 2")
    lab.edit("src/lab/lazy.py", "return 7", "return 8")
    lab.edit("src/lab/offers/inner.py", "return 5", "return 6")
    lab.edit(IMPL, "x / 3", "x / 5")
    assert {name: code_difference(name, record) for name, record in records.items()} == {
        "lab.user:one": ["lab/space/maker.py:make"],
        "lab.user:two": ["lab/space/maker.py:make"],
        "lab.user:three": ["lab/lazy.py:__getattr__"],
        "lab.offers:four": ["lab/offers/inner.py:f"],
        "lab.deep.more:work": ["lab/deep/_impl.py:third"],
    }


def test_functions_that_register_themselves_belong_to_what_they_register_with(lab: Tree):
    lab.write(
        "src/lab/dispatch.py",
        "from functools import singledispatch\n\n\n@singledispatch\ndef convert(x):\n    return x\n\n\n"
        "@convert.register\ndef _(x: int):\n    return 1\n",
    )
    record = code_of("lab.dispatch:convert")
    lab.edit("src/lab/dispatch.py", "return 1", "return 2")
    assert code_difference("lab.dispatch:convert", record) == ["lab/dispatch.py:convert"]


def test_a_sum_of_thousands_of_terms_is_read(lab: Tree):
    lab.write("src/lab/long.py", f"def work(config):\n    return {' + '.join(['config'] * 2000)}\n")
    assert code_of("lab.long:work")["code_fingerprint"] is not None


def test_other_packages_do_not_count_even_inside_the_project(lab: Tree, monkeypatch: pytest.MonkeyPatch):
    site = lab.folder / ".venv/lib/python3/site-packages"
    lab.write(
        ".venv/lib/python3/site-packages/vendor/__init__.py", "def f():\n    return g()\n\n\ndef g():\n    pass\n"
    )
    lab.write("src/lab/uses.py", "import vendor\nimport json\n\n\ndef work(c):\n    return vendor.f(json.dumps(c))\n")
    monkeypatch.syspath_prepend(site)
    record = code_of("lab.uses:work")["code_fingerprint"]
    assert list(record["files"]) == ["lab/uses.py"]
    # but of an installed function its own package counts, by the same names as in a checkout
    assert list(code_of("vendor:f")["code_fingerprint"]["files"]["vendor/__init__.py"]["definitions"]) == ["f", "g"]


def test_an_installed_package_and_its_checkout_have_one_fingerprint(lab: Tree, monkeypatch: pytest.MonkeyPatch):
    checkout = code_of(WORK)
    installed = lab.folder.parent / "site-packages"
    (lab.folder / "src").rename(installed)
    monkeypatch.syspath_prepend(installed)
    assert code_of(WORK) == checkout
    assert code_difference(WORK, checkout) == []


def test_the_classes_and_functions_in_the_config_are_code_of_the_step(lab: Tree, monkeypatch: pytest.MonkeyPatch):
    lab.write(
        "src/configs_of_lab.py",
        "from dataclasses import dataclass\nfrom typing import Any\n\n\n@dataclass(frozen=True)\nclass Model:\n"
        "    size: int\n\n    def init(self):\n        return self.size\n\n\n@dataclass(frozen=True)\nclass Job:\n"
        "    model: Any\n    hooks: tuple\n\n\ndef hook():\n    return 1\n\n\ndef work(config):\n"
        "    return config.model.init()\n",
    )
    module = importlib.import_module("configs_of_lab")
    monkeypatch.setitem(sys.modules, "configs_of_lab", module)
    config = module.Job(model=module.Model(3), hooks=(module.hook,))
    record = code_of(module.work, config)
    assert code_difference(module.work, record, config) == []
    lab.edit("src/configs_of_lab.py", "return self.size", "return self.size + 1")
    assert code_difference(module.work, record, config) == ["configs_of_lab.py:Model"]
    lab.edit("src/configs_of_lab.py", "return 1", "return 2")
    assert code_difference(module.work, record, config) == ["configs_of_lab.py:Model", "configs_of_lab.py:hook"]
    assert [*code_of("configs_of_lab:work")["code_fingerprint"]["files"]["configs_of_lab.py"]["definitions"]] == [
        "work"
    ]


def test_while_nothing_is_edited_nothing_is_parsed(lab: Tree):
    """Seen from outside: in a process that cannot parse, the comparison still answers."""
    record = code_of(WORK)
    program = (
        "import ast, json, sys\nfrom marin.execution.fingerprint import code_difference\n"
        "del ast.parse\nprint(code_difference(sys.argv[1], json.load(sys.stdin)))"
    )
    assert _python(program, WORK, stdin=json.dumps(record), path=[lab.folder / "src"]) == "[]"


def test_summaries_are_kept_on_disk_and_are_only_a_matter_of_speed(lab: Tree, tmp_path: Path):
    for name in ("src/lab/work.py", SHAPES, LATE, IMPL, "src/lab/base.py", "src/lab/deep/tables.py"):
        lab.write(name, (lab.folder / name).read_text() + "#" * 4000)
    for name in ("src/lab/__init__.py", "src/lab/deep/__init__.py"):
        lab.write(name, (lab.folder / name).read_text() + "#" * 4000 + "\n")
    path, cache = [lab.folder / "src"], tmp_path / "cache"
    expected = _python(_PRINT, WORK, path=path, XDG_CACHE_HOME=str(cache))
    files = sorted((cache / "marin/code").iterdir())
    assert len(files) == 8
    without_parser = f"import ast\ndel ast.parse\n{_PRINT}"
    assert _python(without_parser, WORK, path=path, XDG_CACHE_HOME=str(cache)) == expected
    for i, file in enumerate(files):  # damaged, cut, emptied, another's
        text = file.read_text()
        file.write_text([text.replace('"', "'"), text[: len(text) // 2], "", files[0].read_text()][i % 4])
    assert _python(_PRINT, WORK, path=path, XDG_CACHE_HOME=str(cache)) == expected
    assert _python(_PRINT, WORK, path=path, XDG_CACHE_HOME=str(lab.folder / IMPL)) == expected  # no folder at all
    lab.edit(IMPL, "x / 2", "x / 4")
    changed = _python(_PRINT, WORK, path=path, XDG_CACHE_HOME=str(cache))
    assert changed != expected
    assert changed == _python(_PRINT, WORK, path=path, XDG_CACHE_HOME=str(tmp_path / "other"))


def test_records_without_definitions_are_compared_by_the_functions_file(lab: Tree):
    source = (lab.folder / "src/lab/work.py").read_bytes()
    old = {"code_fingerprint": "0" * 64, "source_sha256": hashlib.sha256(source).hexdigest()}
    assert code_difference(WORK, old) == []
    lab.edit("src/lab/work.py", "Square(2)", "Square(3)")
    assert code_difference(WORK, old) == ["lab/work.py"]


def test_outputs_are_found_by_the_digits_of_the_code_that_made_them(lab: Tree):
    record = code_of(WORK)
    code = record["code_fingerprint"]
    file = code["files"]["lab/deep/_impl.py"]
    for digits in (code["root"], code["root"][:8], file["sha256"][:6], file["definitions"]["half"]):
        assert matches_code(record, digits)
    lab.edit(IMPL, "x / 2", "x / 4")
    now = code_of(WORK)
    for digits in (code["root"], file["sha256"], file["definitions"]["half"]):
        assert not matches_code(now, digits)
    assert matches_code(now, code["files"]["lab/late.py"]["sha256"])
    assert matches_code({"code_fingerprint": "ab" * 32, "source_sha256": "cd" * 32}, "cdcdcd")
    assert not matches_code({"code_fingerprint": None}, "cdcdcd")
    for bad in ("", "abc", "xyzxyz", "ABCDEF"):
        with pytest.raises(ValueError, match="expected 6 to 64 of the digits"):
            matches_code(record, bad)


# -- the policy of a step ---------------------------------------------------------------------------------------------


def test_with_the_policy_version_an_edit_is_another_step_and_a_comment_is_not(lab: Tree):
    def digest(policy: str) -> str:
        step = ExecutorStep(name="a", fn=WORK, config=1, code_policy=policy)  # pyright: ignore[reportArgumentType]
        return build_graph([step]).targets[0]

    before = {policy: digest(policy) for policy in ("warn", "version", "ignore")}
    assert before["warn"] == before["ignore"] != before["version"]
    lab.edit(SHAPES, "# nearly", "# quite")
    assert {policy: digest(policy) for policy in before} == before
    lab.edit(SHAPES, "PI = 3.14\n", "PI = 3.1416\n")
    assert {p for p in before if digest(p) != before[p]} == {"version"}


def test_with_the_policy_version_code_that_cannot_be_read_is_an_error_that_names_the_step(lab: Tree):
    step = ExecutorStep(name="a/b", fn=WORK, config=1, code_policy="version")
    lab.write(IMPL, "def half(:\n")
    with pytest.raises(UnversionableError, match=r"step 'a/b': .*lab/deep/_impl.py: .*raise code_version by hand"):
        build_graph([step])
    assert code_of(WORK)["code_fingerprint"]["files"]["lab/deep/_impl.py"]["definitions"] == {}
    missing = ExecutorStep(name="a/c", fn="builtins:repr", config=1, code_policy="version")
    with pytest.raises(UnversionableError, match="step 'a/c': .*no Python source defines builtins:repr"):
        build_graph([missing])
    with pytest.raises(ValueError, match=r"code_policy='never'; expected one of \('warn', 'version', 'ignore'\)"):
        ExecutorStep(name="a", fn=WORK, config=1, code_policy="never")  # pyright: ignore[reportArgumentType]


def test_with_the_policy_ignore_nobody_is_told(module):
    (module.folder / "fp_package" / "__init__.py").write_text("")
    steps = {
        policy: ExecutorStep(name=policy, fn=module.fn, config=1, code_policy=policy) for policy in ("warn", "ignore")
    }
    executor = Executor(module.folder / "store", fsync=False, quiet=True)
    assert executor.run([*steps.values()]).is_ok
    module.file.write_text(MODULE.replace("x * 2", "x * 3"))
    assert {i.node.name: bool(i.code_drift) for i in executor.plan([*steps.values()])} == {
        "warn": True,
        "ignore": False,
    }


# -- everywhere the same ----------------------------------------------------------------------------------------------


def _python(
    program: str,
    *arguments: str,
    executable: str = sys.executable,
    stdin: str = "",
    path: list[Path] | None = None,
    **env: str,
) -> str:
    places = os.pathsep.join(map(str, [SRC, *(path or [])]))
    done = subprocess.run(
        [executable, "-c", program, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": places, **env},
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


_PRINT = (
    "import json, sys\nfrom marin.execution.fingerprint import code_of\n"
    "print(json.dumps(code_of(sys.argv[1]), sort_keys=True))"
)
GOLDEN = "1fa48011022fbd5cfb14fa1439db43e1fea02b820a4f00ce6a23a242e5b0f543"


def _other_pythons() -> Iterator[str]:
    for version in ("3.11", "3.12", "3.13", "3.14"):
        try:
            subprocess.run([f"python{version}", "-c", ""], check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError):  # not there, or a launcher without it
            continue
        yield f"python{version}"


def test_the_root_is_the_same_in_every_process_and_python(lab: Tree):
    record = code_of(WORK)
    assert record["code_fingerprint"]["root"] == GOLDEN
    for executable, seed in [(sys.executable, "0"), (sys.executable, "1"), *((p, "2") for p in _other_pythons())]:
        found = _python(_PRINT, WORK, executable=executable, path=[lab.folder / "src"], PYTHONHASHSEED=seed)
        assert json.loads(found) == record, executable


def test_a_script_has_one_fingerprint_whether_it_is_run_or_imported(lab: Tree):
    lab.write(
        "experiments/script.py",
        "import json\nfrom lab.deep import halved\nfrom marin.execution.fingerprint import code_of\n\n\n"
        "class Config:\n    pass\n\n\ndef work(config):\n    return halved(config)\n\n\n"
        "if __name__ == '__main__':\n    print(json.dumps(code_of(work, Config()), sort_keys=True))\n",
    )
    script = str(lab.folder / "experiments/script.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SRC), str(lab.folder / "src")])}
    found = {
        subprocess.run(
            [sys.executable, *arguments], cwd=lab.folder, env=environment, capture_output=True, text=True, check=True
        ).stdout
        for arguments in ([script], ["-m", "experiments.script"])
    }
    imported = "import json\nfrom experiments.script import Config, code_of, work\n"
    imported += "print(json.dumps(code_of(work, Config()), sort_keys=True))"
    found.add(_python(imported, path=[lab.folder, lab.folder / "src"]) + "\n")
    assert len(found) == 1
    files = json.loads(found.pop())["code_fingerprint"]["files"]
    assert {path: [*file["definitions"]] for path, file in files.items()} == {
        "experiments/script.py": ["Config", "work"],
        "lab/deep/__init__.py": ["halved"],
        "lab/deep/_impl.py": ["half"],
    }


# -- a law ------------------------------------------------------------------------------------------------------------

NUM_MODULES, NUM_FUNCTIONS = 3, 3
FUNCTIONS = [(m, f) for m in range(NUM_MODULES) for f in range(NUM_FUNCTIONS)]
STYLES: tuple[Callable[[str, str, int], tuple[str, str, str]], ...] = (  # (import at top, import inside, expression)
    lambda module, name, n: (f"from {module} import {name} as x{n}", "", f"x{n}()"),
    lambda module, name, n: (f"import {module} as x{n}", "", f"x{n}.{name}()"),
    lambda module, name, n: (f"import {module}", "", f"{module}.{name}()"),
    lambda module, name, n: ("", f"from {module} import {name} as x{n}", f"x{n}()"),
    lambda module, name, n: ("", f"import {module} as x{n}", f"[x{n}.{name} for _ in ()]"),
    lambda module, name, n: (f"from law import {name}_of_{module.replace('.', '_')} as x{n}", "", f"x{n}"),
)


@st.composite
def programs(draw: st.DrawFn) -> tuple[dict[tuple[int, int], list[tuple[tuple[int, int], int]]], tuple[int, int]]:
    """(what each function calls, by which style of import; the function that is edited)"""
    calls = st.lists(st.tuples(st.sampled_from(FUNCTIONS), st.integers(0, len(STYLES))), max_size=2)
    return {function: draw(calls) for function in FUNCTIONS}, draw(st.sampled_from(FUNCTIONS))


def _texts(calls: Mapping[tuple[int, int], list[tuple[tuple[int, int], int]]], edited: tuple[int, int] | None):
    reexports = [f"from law.m{m} import f{f} as f{f}_of_law_m{m}" for m, f in FUNCTIONS]
    texts = {"law/__init__.py": "\n".join(reexports) + "\n"}
    for m in range(NUM_MODULES):
        imports, functions = [], []
        for f in range(NUM_FUNCTIONS):
            body = [f"{'changed' if (m, f) == edited else 'value'} = 1"]
            for n, ((other_m, other_f), style) in enumerate(calls[m, f]):
                if style == len(STYLES):
                    module, expression = m, f"f{other_f}()"  # of the same module
                else:
                    module = other_m
                    top, inside, expression = STYLES[style](f"law.m{module}", f"f{other_f}", 10 * f + n)
                    imports.append(top)
                    body.append(inside)
                body.append(expression)
            functions.append(f"def f{f}():\n" + "".join(f"    {line}\n" for line in body if line))
        texts[f"law/m{m}.py"] = "\n".join([*filter(None, imports), "", *functions])
    return texts


def _reachable(calls: Mapping[tuple[int, int], list[tuple[tuple[int, int], int]]]) -> set[tuple[int, int]]:
    found, todo = {(0, 0)}, [(0, 0)]
    while todo:
        m, f = todo.pop()
        for (other_m, other_f), style in calls[m, f]:
            called = (m if style == len(STYLES) else other_m, other_f)
            if called not in found:
                found.add(called)
                todo.append(called)
    return found


@settings(max_examples=100, deadline=None)
@given(programs())
def test_the_root_changes_exactly_when_a_reachable_definition_does(program):
    calls, edited = program
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        try:
            tree = Tree(Path(folder), _texts(calls, None))
            record = code_of("law.m0:f0")
            for name, text in _texts(calls, edited).items():
                tree.write(name, text)
            is_reached = edited in _reachable(calls)
            m, f = edited
            assert code_difference("law.m0:f0", record) == ([f"law/m{m}.py:f{f}"] if is_reached else [])
            root = code_of("law.m0:f0")["code_fingerprint"]["root"]
            assert (root != record["code_fingerprint"]["root"]) is is_reached
        finally:
            sys.path.remove(folder)
