"""What is compiled once is read by every later process, without what compiling needs."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
import numpy as np
from numba.core import event
from marin.processing.kernels.minhash import resolve

with event.install_recorder("numba:compile") as compiled:
    chosen = resolve(np.array([1, 2]), np.array([0, 1]), np.zeros(1, np.uint8))
print(chosen.tolist(), len(compiled.buffer) > 0, "numba.np.linalg" in sys.modules)
"""


def run(cache: Path) -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_later_process_compiles_nothing_and_loads_nothing_for_it(tmp_path: Path):
    old = tmp_path / "marin" / "kernels" / "minhash-of-long-ago"
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    assert run(tmp_path) == "[True, False] True True"
    assert not old.exists()
    assert run(tmp_path) == "[True, False] False False"


def test_without_a_place_to_keep_them_kernels_are_compiled_all_the_same(tmp_path: Path):
    no_folder = tmp_path / "file"
    no_folder.write_text("")
    assert run(no_folder).startswith("[True, False] True")
