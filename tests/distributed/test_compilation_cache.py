"""Where compiled programs are kept."""

import subprocess
import sys

import jax
import pytest

from marin.distributed.compilation_cache import OFF, default_cache_folder, use_compilation_cache


@pytest.fixture(autouse=True)
def settings_are_put_back():
    names = [
        "jax_compilation_cache_dir",
        "jax_enable_compilation_cache",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    ]
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_default_folder_is_the_users_and_named_by_cpu_and_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = use_compilation_cache()
    assert folder == default_cache_folder()
    assert folder.parent == tmp_path / "marin" / "xla" and folder.is_dir()
    assert folder.name.startswith("jaxlib-")


def test_off_compiles_anew():
    assert use_compilation_cache(OFF) is None
    assert not jax.config.jax_enable_compilation_cache


def test_a_folder_that_cannot_be_made_only_turns_the_cache_off(tmp_path):
    (tmp_path / "file").write_text("")
    assert use_compilation_cache(tmp_path / "file" / "cache") is None


def test_a_half_written_entry_is_compiled_anew(tmp_path):
    script = (
        "import sys; from marin.distributed.compilation_cache import use_compilation_cache; "
        "use_compilation_cache(sys.argv[1]); import jax; print(float(jax.jit(lambda x: x * 3 + 1)(2.0)))"
    )
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
        assert run.stdout == "7.0\n"
        entries = [path for path in tmp_path.iterdir() if path.name.endswith("-cache")]
        assert entries
        for entry in entries:  # as a kill in the middle of writing would leave it
            entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])
