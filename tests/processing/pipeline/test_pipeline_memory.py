"""What one worker holds, whatever the size of its input."""

import gzip
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from marin.processing.pipeline import Dataset
from marin.processing.pipeline.reducers import Count

plan = Dataset.from_files(sys.argv[1])
if sys.argv[3] == "filter":
    plan = plan.filter("text.length() > 10").map(lambda row: row, name="same")
else:
    plan = plan.group_by("source", Count(), num_shards=2)
plan.write_parquet(sys.argv[2]).run(workers=1)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["filter", "group"])
def test_two_gigabytes_in_one_gz_member_need_less_than_one_in_memory(tmp_path: Path, kind: str):
    line = {"text": "A line of text that says little and repeats itself. " * 60, "source": "same", "metadata": {}}
    block = b"".join(json.dumps({"id": str(i), **line}).encode() + b"\n" for i in range(1000))
    size = 0
    with gzip.open(tmp_path / "big.jsonl.gz", "wb", compresslevel=1) as file:
        while size < 2 << 30:
            file.write(block)
            size += len(block)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "big.jsonl.gz"), str(tmp_path / "out"), kind]
    subprocess.run(command, check=True)
    peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"{kind}: {size} bytes of rows, at most {peak_bytes / 1e6:.0f} MB in memory")
    assert peak_bytes < 1 << 30
