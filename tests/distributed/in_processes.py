"""Trains as one of several processes: `python in_processes.py JOBS.json`, which the environment gives its place.

Like on_devices.py, but what became of the jobs is printed by each process for itself.
"""

import json
import sys
from pathlib import Path

from marin.config import decode
from marin.training.config import TrainLmConfig
from marin.training.train_lm import train_lm

if __name__ == "__main__":
    for job in json.loads(Path(sys.argv[1]).read_text()):
        print(json.dumps(train_lm(decode(TrainLmConfig, job)).final_loss), flush=True)
