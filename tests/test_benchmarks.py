"""The benchmarks that need other machines run on this one too, at a size that says nothing of speed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.slow
def test_the_gpu_benchmark_checks_numbers_anywhere_and_says_where_there_is_no_gpu():
    arguments = ["--size", "tiny", "--cases", "gpt2", "--peers", "cudnn", "blocked", "--no_write"]
    arguments += ["--rounds", "1", "--steps", "1"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "bench_train_gpu.py"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert "There is no GPU here" in done.stdout
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    checked = [row for row in rows if row[0] in ("| blocked", "| reference", "| xla")]
    assert len(checked) == 6 and all(float(row[2]) < 0.1 for row in checked)
    refused = [row for row in rows if "cannot run here: attention implementation 'cudnn'" in row[1]]
    assert [row[0] for row in refused] == ["| marin, cudnn"]
    raced = next(row for row in rows if row[0].startswith("| marin, blocked (jax"))
    assert int(raced[1].split()[0].replace(",", "")) > 0
