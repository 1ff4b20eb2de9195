"""Two steps: one writes numbers, the next reads them. No tensor library, no download, well under a second.

python experiments/hello_world.py          # runs both steps, or says that nothing is to do
marin plan experiments/hello_world.py      # what a run would do, and why
"""

import json
import os
import random
from dataclasses import dataclass

from marin.execution.executor import ExecutorStep, executor_main, output_path_of, this_output_path


@dataclass(frozen=True, kw_only=True)
class GenerateDataConfig:
    """Pseudo-random numbers to make."""

    n: int  # how many
    seed: int = 0  # the same seed gives the same numbers
    output_path: str  # folder for numbers.json


@dataclass(frozen=True, kw_only=True)
class ComputeStatsConfig:
    """Numbers to look at."""

    input_path: str  # folder with numbers.json
    output_path: str  # folder for stats.json


def generate_data(config: GenerateDataConfig) -> None:
    """Write `n` integers from 0 to 99 as a JSON list."""
    draw = random.Random(config.seed)
    numbers = [draw.randrange(100) for _ in range(config.n)]
    with open(os.path.join(config.output_path, "numbers.json"), "w", encoding="utf-8") as file:
        json.dump(numbers, file)


def compute_stats(config: ComputeStatsConfig) -> None:
    """Write count, sum, mean, least and greatest of the numbers. Raises ValueError if there are none."""
    with open(os.path.join(config.input_path, "numbers.json"), encoding="utf-8") as file:
        numbers = json.load(file)
    if not numbers:
        raise ValueError(f"{config.input_path}: no numbers, so they have no mean; generate at least one")
    stats = {
        "count": len(numbers),
        "sum": sum(numbers),
        "mean": sum(numbers) / len(numbers),
        "min": min(numbers),
        "max": max(numbers),
    }
    with open(os.path.join(config.output_path, "stats.json"), "w", encoding="utf-8") as file:
        json.dump(stats, file, indent=2)
    print(f"{stats['count']} numbers, mean {stats['mean']:.2f}")


# Define steps explicitly
data_step = ExecutorStep(
    name="hello_world/data",
    fn=generate_data,
    config=GenerateDataConfig(n=100, output_path=this_output_path()),
)

stats_step = ExecutorStep(
    name="hello_world/stats",
    fn=compute_stats,
    config=ComputeStatsConfig(
        input_path=output_path_of(data_step),  # Reference previous step
        output_path=this_output_path(),
    ),
)

if __name__ == "__main__":
    executor_main(steps=[stats_step])
