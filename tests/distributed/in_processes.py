"""Trains as one of several processes: `python in_processes.py JOBS.json`, which the environment gives its place.

Like on_devices.py, but what became of the jobs is printed by each process for itself. LARGEST_FILE_BYTES in the
environment stands in for a full disk.
"""

import json
import os
import resource
import sys
from pathlib import Path

from marin.config import decode
from marin.training.config import TrainLmConfig
from marin.training.train_lm import train_lm

if __name__ == "__main__":
    if "LARGEST_FILE_BYTES" in os.environ:
        limit = int(os.environ["LARGEST_FILE_BYTES"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    for job in json.loads(Path(sys.argv[1]).read_text()):
        # libraries write lines of their own, in several threads, so that even their lines are torn
        print("loss", json.dumps(train_lm(decode(TrainLmConfig, job)).final_loss), flush=True)
