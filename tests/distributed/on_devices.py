"""Trains on simulated devices: `python on_devices.py JOBS.json`, with their number in XLA_FLAGS.

A process of its own, as the number of devices is fixed when JAX starts. JOBS.json is a list of TrainLmConfig as
`marin.config.encode` writes them; the last line printed is a list of what became of each: the error, or null.
"""

import json
import sys
from pathlib import Path

from marin.config import decode
from marin.training.config import TrainLmConfig
from marin.training.train_lm import train_lm


def outcome_of(job: dict) -> str | None:
    try:
        train_lm(decode(TrainLmConfig, job))
    except ValueError as error:
        return str(error)
    return None


if __name__ == "__main__":
    print(json.dumps([outcome_of(job) for job in json.loads(Path(sys.argv[1]).read_text())]))
