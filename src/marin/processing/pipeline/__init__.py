"""Operations over files of rows: a lazy plan, fused per shard, resumable, the same result whoever carries it out.

Importing it loads no Arrow: that is for the processes that do the work.
"""

from marin.processing.pipeline.batch import BadRow, BatchResult, Dropped, Sample
from marin.processing.pipeline.dataset import Dataset
from marin.processing.pipeline.expressions import Expression, col, lit, parse

__all__ = ["BadRow", "BatchResult", "Dataset", "Dropped", "Expression", "Sample", "col", "lit", "parse"]
