"""Documents and their attributes to the documents that stay, on the engine.

What stays is decided by each criterion alone, so their order changes nothing but which of them is blamed for a document
that several would drop. Nothing is dropped in silence: a document without attributes is an error unless the config says
what it means.
"""

from typing import TYPE_CHECKING

from marin.processing.attributes import join_attributes
from marin.processing.consolidate.config import ConsolidateConfig
from marin.processing.consolidate.fractions import find_border, hashes_in
from marin.processing.filter.run import DropColumns
from marin.processing.pipeline import Dataset
from marin.processing.remove import RemoveSpans

if TYPE_CHECKING:
    from marin.processing.pipeline.result import Result


def consolidate(config: ConsolidateConfig) -> "Result":
    """Write the documents that stay; the result has the funnel, which is in OUTPUT/_funnel.json too.

    Raises ValueError for a document without attributes (unless `missing` says what it means), and for an attribute that
    is not there, with the nearest one.
    """
    documents = Dataset.from_files(config.input_path)
    added: list[str] = []
    for path in config.attributes:
        name = f"attributes of {_last(path)}"
        documents, columns = join_attributes(documents, path, missing=config.missing, name=name)
        added += columns
    for rule in config.rules:
        documents = documents.filter(rule, missing=config.missing)
    ids = hashes_in(config.input_path) if config.keep_fractions else None
    for keep in config.keep_fractions:
        border = find_border(keep, (*config.attributes, config.input_path), missing=config.missing, documents=ids)
        documents = documents.map_batches(border, name=border.rule)
    if config.remove_spans:
        documents = documents.map_batches(RemoveSpans(columns=config.remove_spans), name="remove spans")
    if config.sample is not None:
        documents = documents.sample(config.sample, seed=config.seed)
    if added and not config.keep_attributes:
        documents = documents.map_batches(DropColumns(tuple(added)), name="without attributes")
    return documents.write_parquet(config.output_path).run(workers=config.num_workers, max_bad=config.max_bad)


def _last(path: str) -> str:
    """The last name of a path: what it is called in counts."""
    return path.rstrip("/").rpartition("/")[2]
