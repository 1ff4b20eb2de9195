"""A folder of evaluation data with a few small questions, in the layout that tasks are read from."""

import json
import random
from pathlib import Path

_THINGS = ["stone", "river", "house", "tree", "model", "token", "step", "cloud", "lamp", "bread"]
_DEEDS = ["fell", "broke", "opened", "closed", "grew", "burned", "sank", "turned"]


def write_task_data(folder: str | Path, num_questions: int = 8, *, seed: int = 0) -> Path:
    """COPA and ARC-Easy with so many made-up questions each; other tasks have no data. Returns the folder."""
    rng = random.Random(f"tiny tasks {seed}")

    def clause() -> str:
        return f"The {rng.choice(_THINGS)} {rng.choice(_DEEDS)}"

    copa = [
        {
            "query": f"{clause()}, {('because', 'therefore')[number % 2]}",
            "choices": [f"{clause()}.", f"{clause()} twice."],
            "gold": number % 2,
        }
        for number in range(num_questions)
    ]
    arc_easy = [
        {
            "query": f"Question: Which {rng.choice(_THINGS)} {rng.choice(_DEEDS)} in year {number}?",
            "choices": [f"the {rng.choice(_THINGS)} number {place}" for place in range(4)],
            "gold": number % 4,
        }
        for number in range(num_questions)
    ]
    for place, rows in (("commonsense_reasoning/copa", copa), ("world_knowledge/arc_easy", arc_easy)):
        path = Path(folder, "mosaic", f"{place}.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Path(folder)
