"""Raw text to a reported model, in one file and a few minutes on two cores.

    python experiments/quickstart.py
    python experiments/quickstart.py --set train.learning_rate=1e-3     # re-runs training and what follows
    marin plan experiments/quickstart.py                                # what would run, and why

The text is the Python standard library of the interpreter that runs this: every machine has it. Everything that makes
the run what it is stands in QUICKSTART; any of it can be set from the command line.
"""

import os
from dataclasses import dataclass

from marin.cluster.resources import ResourceConfig
from marin.config import from_command_line
from marin.download.api import standard_library
from marin.evaluation.api import evaluate_heldout
from marin.execution.executor import ExecutorStep, executor_main
from marin.export.api import export_step
from marin.models.llama import LlamaConfig
from marin.processing.tokenize.api import default_tokenize, train_tokenizer
from marin.processing.tokenize.data_configs import lm_data_config
from marin.report.api import report
from marin.training.api import default_train
from marin.training.config import RuntimeConfig, SimpleTrainConfig


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """Everything that makes this run what it is."""

    validation_fraction: float
    """Share of the documents that training never sees."""
    vocab_size: int
    """Tokens of the byte-level BPE, specials included."""
    model: LlamaConfig
    train: SimpleTrainConfig
    num_questions: int
    """Multiple-choice questions made from held-out text."""
    max_documents: int | None = None
    """Take only the first so many documents, for a quick look."""


QUICKSTART = Quickstart(
    validation_fraction=0.08,
    vocab_size=2048,
    num_questions=300,
    model=LlamaConfig(
        seq_len=256,
        hidden_dim=128,
        intermediate_dim=352,
        num_heads=4,
        num_kv_heads=2,
        num_layers=4,
        tie_word_embeddings=True,
    ),
    train=SimpleTrainConfig(
        resources=ResourceConfig.with_cpu(),
        train_batch_size=8,
        num_train_steps=1000,
        learning_rate=4e-3,
        weight_decay=0.1,
        warmup=100,
        lr_schedule="cosine",
        min_lr_ratio=0.05,
        z_loss_weight=1e-4,
        steps_per_eval=250,
        max_eval_batches=64,
        steps_per_checkpoint=100,
        runtime=RuntimeConfig(seconds_per_checkpoint=15.0),
    ),
)


def quickstart(config: Quickstart) -> ExecutorStep:
    """The report step; every other step of the line hangs on it."""
    documents = standard_library(
        "documents/python", validation_fraction=config.validation_fraction, max_documents=config.max_documents
    )
    tokenizer = train_tokenizer("python", dataset=documents / "train", vocab_size=config.vocab_size)
    train_tokens = default_tokenize("python/train", dataset=documents / "train", tokenizer=tokenizer)
    validation_tokens = default_tokenize("python/validation", dataset=documents / "validation", tokenizer=tokenizer)
    trained = default_train(
        "quickstart",
        tokenized=lm_data_config(train_tokens, validation_sets={"python": validation_tokens}),
        model_config=config.model,
        train_config=config.train,
    )
    exported = export_step("exports/quickstart", trained=trained, tokenizer=tokenizer)
    evaluation = evaluate_heldout(
        "evaluations/quickstart",
        model=exported,
        documents=documents / "validation",
        train_documents=documents / "train",
        seed=0,
        max_bytes=None,
        num_questions=config.num_questions,
    )
    return report(
        "reports/quickstart",
        title="Quickstart: a small Llama on the Python standard library",
        steps={
            "documents": documents,
            "tokenizer": tokenizer,
            "train_tokens": train_tokens,
            "validation_tokens": validation_tokens,
            "train": trained,
            "export": exported,
            "evaluation": evaluation,
        },
    )


if __name__ == "__main__":
    page = quickstart(from_command_line(QUICKSTART))
    result = executor_main(
        steps=[page], description="Raw text to a trained, exported, verified, evaluated and reported model"
    )
    if result is not None and result.steps:
        folder = result.output_path(page)
        print(f"report: {folder if '://' in folder else os.path.relpath(folder)}/report.html")
