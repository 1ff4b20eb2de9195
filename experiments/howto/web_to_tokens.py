"""Web pages to a trained model, every document accounted for: extract, filter, deduplicate, decontaminate, tokenize.

    marin run experiments/howto/web_to_tokens.py                                # pages that every Python can make
    marin run experiments/howto/web_to_tokens.py --set pages=FOLDER             # *.html files, or *.warc.gz
    marin run experiments/howto/web_to_tokens.py --set pages=FOLDER --set evaluation_sets=FOLDER
    marin plan experiments/howto/web_to_tokens.py                               # what would run, and why

Without a folder the pages are those of pydoc, the interpreter's own documentation browser, for the modules of the
standard library: real HTML with tables, code and much boilerplate. With the documentation packages of a Linux
distribution it is thousands of pages by as many hands.

The last step but one is a model of some hundred thousand parameters, to show that the line ends in one. What this is
about is the funnel: how many documents came in, which rule took how many, and how many tokens are left.
"""

import importlib
import io
import pydoc
import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from marin.cluster.resources import ResourceConfig
from marin.config import from_command_line
from marin.download.api import local_documents
from marin.evaluation.api import evaluate_heldout
from marin.execution.executor import ExecutorStep, InputName, executor_main, this_output_path
from marin.export.api import export_step
from marin.models.llama import LlamaConfig
from marin.processing.consolidate.api import split
from marin.processing.decontaminate.api import remove_evaluation_items
from marin.processing.decontaminate.config import EvaluationSet
from marin.processing.dedup.api import deduplicate
from marin.processing.dedup.config import ExactConfig, MinHashConfig
from marin.processing.extract.api import extract_html
from marin.processing.extract.config import PageOptions
from marin.processing.filter.api import filter_documents
from marin.processing.filter.filters import Filter
from marin.processing.filter.gopher import GopherQuality, GopherRepetition
from marin.processing.filter.pii import MaskPii
from marin.processing.tokenize.api import default_tokenize, train_tokenizer
from marin.processing.tokenize.data_configs import lm_data_config
from marin.report.api import funnel_report, report
from marin.training.api import default_train
from marin.training.config import SimpleTrainConfig

PAGES = ("*.html", "*.htm", "*.xhtml", "*.warc", "*.warc.gz")
EVALUATION_FILES = ("*.jsonl", "*.arrow", "*.parquet", "*.txt.bz2")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True, kw_only=True)
class WebToTokens:
    """Everything that makes this run what it is."""

    pages: str | None
    """Folder of pages; None: those of pydoc."""
    evaluation_sets: str | None
    """Folder with a folder for each evaluation set that must not be trained on; None: there is none to look for."""
    output: str
    """"markdown" or "text"."""
    filters: tuple[Filter, ...]
    """Which documents stay."""
    min_similarity: float
    """Nearly equal documents are those of at least this Jaccard similarity, as their signatures estimate it."""
    max_removed: float
    """Share of the documents that deduplication may remove before it is refused."""
    validation_fraction: float
    """Share of the documents that training never sees."""
    vocab_size: int
    """Tokens of the byte-level BPE, specials included."""
    model: LlamaConfig
    train: SimpleTrainConfig


WEB_TO_TOKENS = WebToTokens(
    pages=None,
    evaluation_sets=None,
    output="markdown",
    filters=(GopherRepetition(), GopherQuality(), MaskPii()),
    min_similarity=0.7,
    max_removed=0.8,
    validation_fraction=0.1,
    vocab_size=2048,
    model=LlamaConfig(
        seq_len=256,
        hidden_dim=96,
        intermediate_dim=256,
        num_heads=4,
        num_kv_heads=2,
        num_layers=3,
        tie_word_embeddings=True,
    ),
    train=SimpleTrainConfig(
        resources=ResourceConfig.with_cpu(),
        train_batch_size=8,
        num_train_steps=300,
        learning_rate=4e-3,
        weight_decay=0.1,
        warmup=30,
        lr_schedule="cosine",
        min_lr_ratio=0.05,
        steps_per_eval=100,
        max_eval_batches=32,
    ),
)


@dataclass(frozen=True, kw_only=True)
class PydocConfig:
    """Where pydoc's pages go."""

    output_path: str


def collect_pydoc_pages(config: PydocConfig) -> int:
    """Write pydoc's page of every public module of the standard library that can be imported; returns how many."""
    modules = sorted(name for name in sys.stdlib_module_names if name[0] != "_" and name not in ("antigravity", "this"))
    count = 0
    for name in modules:
        page = _page_of(name)
        if page is not None:
            Path(config.output_path, f"{name}.html").write_text(page, encoding="utf-8")
            count += 1
    return count


def _page_of(name: str) -> str | None:
    """None where the module is not of this machine."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            module = importlib.import_module(name)
            page = pydoc.html.page(f"Python: module {name}", pydoc.html.document(module, name))
    except (Exception, SystemExit):  # any module may refuse in its own way
        return None
    return _ADDRESS.sub("", page)


def documents(config: WebToTokens) -> dict[str, ExecutorStep | InputName]:
    """The outputs that documents pass through, in order, by the name of what was done to them."""
    if config.pages is None:
        pages = ExecutorStep(
            name="raw/pydoc",
            fn=collect_pydoc_pages,
            config=PydocConfig(output_path=this_output_path()),  # type: ignore[arg-type]
            description="pydoc's pages of the standard library",
        )
    else:
        pages = local_documents("raw/pages", config.pages, patterns=PAGES)
    extracted = extract_html("web", pages, "ours", PageOptions(output=config.output))
    filtered = filter_documents("web", extracted, config.filters)
    exact = deduplicate("web/exact", filtered, ExactConfig(), max_removed_per_source=config.max_removed)
    near = deduplicate(
        "web/near",
        exact / "documents",
        MinHashConfig(min_similarity=config.min_similarity),
        max_removed_per_source=config.max_removed,
    )
    stages: dict[str, ExecutorStep | InputName] = {
        "extracted": extracted,
        "filtered": filtered,
        "exact duplicates": exact / "documents",
        "near duplicates": near / "documents",
    }
    if config.evaluation_sets is not None:
        clean = remove_evaluation_items("web", near / "documents", evaluation_sets(config.evaluation_sets))
        stages["evaluation items"] = clean / "documents"
    return stages


def evaluation_sets(folder: str) -> list[EvaluationSet]:
    """A set for each folder in `folder`, whose files are taken into the store as they are now."""
    taken = local_documents("raw/evaluation_sets", folder, patterns=EVALUATION_FILES)
    names = sorted(path.name for path in Path(folder).iterdir() if path.is_dir())
    lines = {"hellaswag": 6}  # its text form has an item in six lines
    return [
        EvaluationSet(name=name, path=taken / name, lines_per_item=lines.get(name))  # type: ignore[arg-type]
        for name in names
    ]


def web_to_tokens(config: WebToTokens) -> list[ExecutorStep]:
    """The funnel and the report of the model; every other step hangs on them."""
    stages = documents(config)
    cleaned = list(stages.values())[-1]
    parts = split("web", cleaned, {"train": 1 - config.validation_fraction, "validation": config.validation_fraction})
    tokenizer = train_tokenizer("web", dataset=parts / "train", vocab_size=config.vocab_size)
    train_tokens = default_tokenize("web/train", dataset=parts / "train", tokenizer=tokenizer)
    validation_tokens = default_tokenize("web/validation", dataset=parts / "validation", tokenizer=tokenizer)
    funnel = funnel_report(
        "reports/web/funnel",
        title="From pages to tokens",
        stages={**stages, "held out": parts / "train", "tokens": train_tokens},
    )
    return [funnel, _model(config, parts, tokenizer, train_tokens, validation_tokens, stages)]


def _model(
    config: WebToTokens,
    parts: ExecutorStep,
    tokenizer: ExecutorStep,
    train_tokens: ExecutorStep,
    validation_tokens: ExecutorStep,
    stages: Mapping[str, ExecutorStep | InputName],
) -> ExecutorStep:
    """The report of a model that is trained on what is left."""
    trained = default_train(
        "web",
        tokenized=lm_data_config(train_tokens, validation_sets={"web": validation_tokens}),
        model_config=config.model,
        train_config=config.train,
    )
    exported = export_step("exports/web", trained=trained, tokenizer=tokenizer)
    evaluation = evaluate_heldout(
        "evaluations/web",
        model=exported,
        documents=parts / "validation",
        train_documents=parts / "train",
        seed=0,
        max_bytes=200_000,
        num_questions=100,
    )
    return report(
        "reports/web/model",
        title="A small Llama on web pages",
        steps={
            "parts": parts,
            "tokenizer": tokenizer,
            "train_tokens": train_tokens,
            "validation_tokens": validation_tokens,
            "train": trained,
            "export": exported,
            "evaluation": evaluation,
            **{name.replace(" ", "_"): step for name, step in stages.items()},
        },
    )


if __name__ == "__main__":
    executor_main(steps=web_to_tokens(from_command_line(WEB_TO_TOKENS)), description="Web pages to a trained model")
