"""Ways from documents on disk to documents, or tokens, on disk: each a command, whose start counts on both sides.

    python -m benchmarks.whole WAY DOCUMENTS OUTPUT

Nothing is imported but by the way that is gone. Ours has as many processes as it takes by itself; datatrove has two.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path


def dedup_whole(documents: Path, output: Path) -> None:
    from marin.processing.dedup.config import DedupConfig, MinHashConfig
    from marin.processing.dedup.run import dedup

    config = DedupConfig(
        input_path=str(documents), output_path=str(output), method=MinHashConfig(), max_removed_per_source=1.0
    )
    dedup(config)


def filter_whole(documents: Path, output: Path, num_workers: int | None = None) -> None:
    from marin.processing.filter.config import FilterConfig
    from marin.processing.filter.presets import PRESETS
    from marin.processing.filter.run import filter_documents

    config = FilterConfig(
        input_path=str(documents), output_path=str(output), filters=PRESETS["fineweb"], num_workers=num_workers
    )
    filter_documents(config)


def tokenize_whole(documents: Path, output: Path) -> None:
    from marin.processing.tokenize.config import TokenizeConfig
    from marin.processing.tokenize.tokenize import tokenize

    config = TokenizeConfig(input_path=str(documents), output_path=str(output), tokenizer=str(output.parent / "gpt2"))
    tokenize(config)


class Whitespace:
    """A word splitter for datatrove."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()


def prepare_datatrove() -> None:
    """Give datatrove another word splitter, wherever it would load its own, and hashes of text, not of bytes alone."""
    import xxhash
    from datatrove.pipeline.decont import n_grams  # type: ignore[import-not-found]
    from datatrove.pipeline.dedup import bloom_filter, minhash  # type: ignore[import-not-found]
    from datatrove.utils.hashes import xxhash as hashes  # type: ignore[import-not-found]

    for module in (n_grams, bloom_filter, minhash):
        module.load_word_tokenizer = lambda language: Whitespace()
    hashes.xxhash32 = lambda text: xxhash.xxh32_intdigest(text.encode())
    hashes.xxhash64 = lambda text: xxhash.xxh64_intdigest(text.encode())


def datatrove_dedup(documents: Path, output: Path) -> None:
    from datatrove.pipeline.dedup.minhash import (  # type: ignore[import-not-found]
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import JsonlReader  # type: ignore[import-not-found]
    from datatrove.pipeline.writers import JsonlWriter  # type: ignore[import-not-found]

    prepare_datatrove()
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    sign = MinhashDedupSignature(f"{output}/signatures", config)
    reader = JsonlReader(str(documents))
    stages = [
        ([reader, sign], 4),
        ([MinhashDedupBuckets(f"{output}/signatures", f"{output}/buckets", config=config)], 14),
        ([MinhashDedupCluster(f"{output}/buckets", f"{output}/remove", config=config)], 1),
        ([reader, MinhashDedupFilter(f"{output}/remove"), JsonlWriter(f"{output}/left", compression=None)], 4),
    ]
    for number, (pipeline, tasks) in enumerate(stages):
        _run_datatrove(pipeline, output / "logs" / str(number), tasks)


def datatrove_filters(documents: Path, output: Path) -> None:
    from benchmarks import filter_peers
    from datatrove.pipeline.filters import (  # type: ignore[import-not-found]
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    from datatrove.pipeline.formatters import PIIFormatter  # type: ignore[import-not-found]
    from datatrove.pipeline.readers import JsonlReader  # type: ignore[import-not-found]
    from datatrove.pipeline.writers import JsonlWriter  # type: ignore[import-not-found]

    filter_peers.whitespace_words()
    pipeline = [
        JsonlReader(str(documents)),
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False, min_num_sentences=-1),
        FineWebQualityFilter(),
        PIIFormatter(),
        JsonlWriter(str(output / "documents"), compression=None),
    ]
    _run_datatrove(pipeline, output / "logs")


def datatrove_tokens(documents: Path, output: Path) -> None:
    from datatrove.pipeline.readers import JsonlReader  # type: ignore[import-not-found]
    from datatrove.pipeline.tokens import DocumentTokenizer  # type: ignore[import-not-found]

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = DocumentTokenizer(
        output_folder=str(output / "tokens"),
        local_working_dir=str(output / "work"),
        tokenizer_name_or_path=str(output.parent / "gpt2" / "tokenizer.json"),
        eos_token="<|endoftext|>",
        shuffle_documents=False,
    )
    _run_datatrove([JsonlReader(str(documents)), tokenizer], output / "logs")


def _run_datatrove(pipeline: list, logs: Path, tasks: int = 4) -> None:
    from datatrove.executor import LocalPipelineExecutor  # type: ignore[import-not-found]

    # Of "forkserver", its default, the CPU time of workers is counted for nobody who waits.
    LocalPipelineExecutor(pipeline, tasks=tasks, workers=2, logging_dir=str(logs), start_method="fork").run()


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "marin-MinHash": dedup_whole,
    "marin-filters": filter_whole,
    "marin-tokenizing": tokenize_whole,
    "datatrove-MinHash": datatrove_dedup,
    "datatrove-filters": datatrove_filters,
    "datatrove-tokenizing": datatrove_tokens,
}

if __name__ == "__main__":
    WAYS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
