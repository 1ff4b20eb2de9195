"""Raw text to a model that answers and stops, in one file: a base model, fine-tuning, and what it learned.

    marin run experiments/howto/sft.py --set conversations=FOLDER     # *.jsonl files of {"prompt", "response"} rows
    marin plan experiments/howto/sft.py --set conversations=FOLDER    # what would run, and why

The base is trained on the Python standard library of the interpreter that runs this, so it knows little English and
has never seen the token that ends a turn. Then it is trained on part of the conversations, and asked about the rest:
how likely the answers are to it, and whether its own answers end, before and after.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from experiments.chat_templates import CHATML, CHATML_TOKENS
from marin.cluster.resources import ResourceConfig
from marin.config import from_command_line
from marin.download.api import local_documents, standard_library
from marin.evaluation.api import evaluate_chat
from marin.execution.executor import ExecutorStep, executor_main, output_path_of, this_output_path
from marin.export.api import export_step
from marin.io.records import find_record_files, read_records, write_records
from marin.models.llama import LlamaConfig
from marin.processing.tokenize.api import default_tokenize, train_tokenizer
from marin.processing.tokenize.config import ChatFormat
from marin.training.api import default_sft, default_train
from marin.training.config import RuntimeConfig, SimpleTrainConfig
from marin.training.sft_config import SimpleSFTConfig


@dataclass(frozen=True, kw_only=True)
class Sft:
    """Everything that makes this run what it is, but for how the model is fine-tuned."""

    conversations: str | None
    """Folder of conversations."""
    chat: ChatFormat
    """How its rows become conversations."""
    held_out_fraction: float
    """Share of the conversations that training never sees."""
    validation_fraction: float
    """Share of the standard library that the base never sees."""
    vocab_size: int
    """Tokens of the byte-level BPE, specials included."""
    model: LlamaConfig
    base: SimpleTrainConfig
    """How the base is trained."""
    num_epochs: float
    """Passes of fine-tuning through the conversations."""
    sft_batch_size: int
    sft_learning_rate: float
    max_new_tokens: int
    """An answer has ended if it ended within so many tokens."""
    max_documents: int | None = None
    """Take only the first so many documents of the standard library, for a quick look."""


SFT = Sft(
    conversations=os.environ.get("SFT_CONVERSATIONS"),
    chat=ChatFormat(template=CHATML, stop_token="<|im_end|>", prompt_column="prompt", completion_column="response"),
    held_out_fraction=0.2,
    validation_fraction=0.08,
    vocab_size=2048,
    model=LlamaConfig(
        seq_len=512,
        hidden_dim=128,
        intermediate_dim=352,
        num_heads=4,
        num_kv_heads=2,
        num_layers=4,
        tie_word_embeddings=True,
    ),
    base=SimpleTrainConfig(
        resources=ResourceConfig.with_cpu(),
        train_batch_size=8,
        num_train_steps=600,
        learning_rate=4e-3,
        weight_decay=0.1,
        warmup=60,
        lr_schedule="cosine",
        min_lr_ratio=0.05,
        z_loss_weight=1e-4,
        runtime=RuntimeConfig(seconds_per_checkpoint=30.0),
    ),
    num_epochs=6,
    sft_batch_size=8,
    sft_learning_rate=1e-3,
    max_new_tokens=128,
)


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Which rows to divide."""

    input_path: str
    output_path: str
    held_out_fraction: float


def split_rows(config: SplitConfig) -> None:
    """Rows into train/ and held_out/ by the hash of their content, so that equal rows stay together."""
    parts: dict[str, list[dict]] = {"train": [], "held_out": []}
    for file in find_record_files(config.input_path):
        for row in read_records(file):
            digest = hashlib.sha256(repr(sorted(row.items())).encode()).digest()
            is_held_out = int.from_bytes(digest[:8], "big") < config.held_out_fraction * 2**64
            parts["held_out" if is_held_out else "train"].append({"id": digest.hex()[:12], **row})
    for part, rows in parts.items():
        folder = Path(config.output_path) / part
        folder.mkdir(parents=True, exist_ok=True)
        write_records(folder / "rows.jsonl.gz", rows)
        print(f"{part}: {len(rows)} rows")


def sft(config: Sft) -> ExecutorStep:
    """The evaluation step; every other step of the line hangs on it."""
    if config.conversations is None:
        raise SystemExit(
            "no conversations to fine-tune on: give a folder of *.jsonl files whose rows have a 'prompt' and a "
            "'response', by --set conversations=FOLDER or the environment variable SFT_CONVERSATIONS"
        )
    documents = standard_library(
        "documents/python", validation_fraction=config.validation_fraction, max_documents=config.max_documents
    )
    tokenizer = train_tokenizer(
        "python_chat", documents / "train", config.vocab_size, extra_special_tokens=CHATML_TOKENS
    )
    text = default_tokenize("python_chat/train", documents / "train", tokenizer)
    base = default_train("sft/base", text, config.model, config.base)

    conversations = ExecutorStep(
        name="conversations/split",
        fn=split_rows,
        config=SplitConfig(
            input_path=local_documents("conversations/raw", config.conversations),  # type: ignore[arg-type]
            output_path=this_output_path(),  # type: ignore[arg-type]
            held_out_fraction=config.held_out_fraction,
        ),
        description="conversations into those to train on and those held out",
    )
    train, held_out = (
        default_tokenize(f"conversations/{part}", conversations / part, tokenizer, chat=config.chat)
        for part in ("train", "held_out")
    )
    tuned = default_sft(
        "sft/tuned",
        train,
        config.model,
        SimpleSFTConfig(
            initialize_from_checkpoint_path=base,  # type: ignore[arg-type]
            num_epochs=config.num_epochs,
            train_batch_size=config.sft_batch_size,
            learning_rate=config.sft_learning_rate,
            warmup=0.1,
            lr_schedule="linear",
            long_conversations="drop",
            steps_per_eval=50,
            resources=config.base.resources,
            runtime=config.base.runtime,
        ),
        validation={"held_out": held_out},
    )
    exported = {
        name: export_step(f"exports/sft/{name}", trained=trained, tokenizer=tokenizer)
        for name, trained in (("base", base), ("tuned", tuned))
    }
    return evaluate_chat(
        "evaluations/sft",
        model=exported["tuned"],
        baseline=exported["base"],
        conversations=output_path_of(conversations, "held_out"),
        chat=config.chat,
        seed=0,
        max_new_tokens=config.max_new_tokens,
    )


if __name__ == "__main__":
    evaluation = sft(from_command_line(SFT))
    result = executor_main(steps=[evaluation], description="A base model, fine-tuned on conversations")
    if result is not None and result.steps:
        print(f"results: {result.output_path(evaluation)}/results.json")
