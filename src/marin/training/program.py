"""The lowered training step, kept with the run: what was computed, whatever becomes of this code.

StableHLO as text, compressed, one file for each batch size. It is written when a run begins, and not again when it is
resumed. Tracing and lowering are those of the step itself, which finds them done, so the price is the text.
"""

import gzip
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from marin.distributed.mesh import row_sharding
from marin.io.atomic import write_bytes
from marin.training.state import TrainState
from marin.training.train_step import CompiledStep, DeviceBatch


def write_programs(
    output: Path, steps: Mapping[int, CompiledStep], state: TrainState, seq_len: int, mesh: Mesh | None
) -> None:
    """Write train_step.bN.stablehlo.gz for the step of each batch size N."""
    for size, step in steps.items():
        ids, weights = (
            jax.ShapeDtypeStruct((size, seq_len), dtype, sharding=row_sharding(mesh))
            for dtype in (np.int32, np.float32)
        )
        batch = DeviceBatch(tokens=ids, targets=ids, loss_weights=weights, segment_ids=ids)  # type: ignore[arg-type]
        text = step.program(state, batch)
        write_bytes(program_path(output, size), gzip.compress(text.encode(), mtime=0))


def program_path(output: Path, batch_size: int) -> Path:
    """Where a run keeps the program of a batch size."""
    return output / f"train_step.b{batch_size}.stablehlo.gz"
