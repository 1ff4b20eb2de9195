"""What an evaluation is asked to do: plain values, so that planning one loads no tensor library."""

from dataclasses import dataclass
from typing import Literal

from marin.evaluation.tasks import EvalTaskConfig
from marin.processing.tokenize.config import ChatFormat


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Score an exported model on held-out documents, beside baselines computed on the same documents."""

    model_path: str
    """Folder of the exported model: config.json, weights, tokenizer, parity.json."""
    documents_path: str
    """Folder of held-out documents: files of JSON lines (.jsonl, .gz, .zst), parquet or Arrow with `id` and `text`."""
    train_documents_path: str
    """Folder of the documents that the model was trained on; the n-gram baseline learns from them."""
    output_path: str
    """Folder that gets results.json and samples.jsonl."""
    seed: int
    """Decides which documents are taken where not all are, which questions are asked, and the sampled completions."""
    max_bytes: int | None
    """Documents are taken, in an order drawn by seed, until they hold so much text; at least two. None takes all."""
    num_questions: int
    """Multiple-choice questions to make from the held-out text; 0 leaves the task out."""

    max_document_bytes: int | None = None
    """Documents are cut at the last line end within so many bytes, for more documents in max_bytes; None cuts none."""
    stride: int | None = None
    """Tokens that a window moves on in a long document; None is half of what the model reads."""
    context_bytes: int = 256
    """Length of a question's context, about."""
    choice_bytes: int = 64
    """Length of a question's choices, at least."""
    num_choices: int = 4
    """Choices of a question; guessing scores one over this."""
    max_ngram_train_bytes: int | None = None
    """Training text for the n-gram baseline; None takes all, which is fair."""
    num_prompts: int = 3
    """Held-out documents whose beginning the model completes; 0 leaves completions out."""
    prompt_characters: int = 200
    """Length of such a beginning, at most."""
    max_new_tokens: int = 96
    """Length of a completion, at most."""
    temperatures: tuple[float, ...] = (0.0, 0.8)
    """Each prompt is completed once at each; 0 is greedy."""
    tokens_per_batch: int = 4096
    """Tokens that the model reads in one call."""
    allow_unverified: bool = False
    """Evaluate an export without a passing parity.json, or one whose files have changed since; the results say so."""

    def __post_init__(self) -> None:
        for name in ("num_questions", "num_prompts"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 (leave out) or more")
        for name in ("max_bytes", "max_document_bytes", "stride", "max_ngram_train_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1, or null for no limit")
        for name in ("context_bytes", "choice_bytes", "prompt_characters", "max_new_tokens", "tokens_per_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.num_choices < 2:
            raise ValueError(f"num_choices is {self.num_choices}; a choice needs at least 2")
        if any(temperature < 0 for temperature in self.temperatures):
            raise ValueError(f"temperatures are {self.temperatures}; expected 0 (greedy) or more")


@dataclass(frozen=True, kw_only=True)
class ChatEvaluationConfig:
    """Score an exported model on held-out conversations, beside the model that it was before."""

    model_path: str
    """Folder of the exported model."""
    conversations_path: str
    """Folder of held-out conversations, `*.jsonl[.gz|.zst]`."""
    output_path: str
    """Folder that gets results.json and samples.jsonl."""
    chat: ChatFormat
    """How rows become conversations: that of the token store that the model was fine-tuned on."""
    seed: int
    """Decides which conversations are taken where not all are, and what is drawn."""
    max_conversations: int | None
    """Take at most so many; None takes all that the model can read."""
    max_new_tokens: int
    """An answer has ended if it ended within so many tokens. Conversations that leave no room for them are left out."""

    baseline_path: str | None = None
    """Folder of the exported model that this one began as; None: no comparison."""
    temperature: float = 1.0
    """At which answers are drawn; 0 is greedy."""
    num_shown: int = 5
    """Answers to show in results.json; all are in samples.jsonl."""
    tokens_per_batch: int = 4096
    """Tokens that the model reads in one call."""
    allow_unverified: bool = False
    """Evaluate exports without a passing parity.json; the results say so."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or (self.max_conversations is not None and self.max_conversations < 2):
            raise ValueError(
                f"max_new_tokens is {self.max_new_tokens} and max_conversations {self.max_conversations}; expected 1 "
                "or more, and 2 or more or null"
            )
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; expected 0 (greedy) or more")


@dataclass(frozen=True, kw_only=True)
class LmHarnessConfig:
    """Run tasks of lm-evaluation-harness on our engine."""

    model_path: str
    """Folder of the model: an export, a training run, or a checkpoint of one."""
    output_path: str
    """Folder that gets results.json and samples.jsonl."""
    tasks: tuple[EvalTaskConfig, ...]
    """Tasks or groups by the harness's names, each at its number of shots."""
    include_path: str | None = None
    """Folder of the harness's YAML files, of tasks of your own."""
    include_defaults: bool = True
    """Whether the harness's own tasks are known too; their data comes from the hub or its cache."""
    checkpoint: str | None = None
    """Of a training run: `checkpoints/step-...`; None: the last."""
    tokenizer_path: str | None = None
    """Of a training run: the tokenizer's folder; None: the one that its config names."""
    limit: int | None = None
    """Questions of each task; None: all."""
    apply_chat_template: bool = False
    """Ask as a user asks, in the template of the model's folder."""
    fewshot_seed: int = 1234
    """Chooses solved examples where the task draws them; the harness's own default."""
    seed: int = 0
    """Of answers that are drawn."""
    bootstrap_iters: int = 0
    """Resamplings for the error of metrics that are no mean over questions; 0: no error is given for them."""
    confirm_run_unsafe_code: bool = False
    """Let tasks run code that the model wrote, in this process, as the harness does: only for models you trust."""
    tokens_per_batch: int = 4096
    """Tokens that the model reads in one call."""
    allow_unverified: bool = False
    """Evaluate an export whose files were changed since it was verified; the results say so."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("tasks is empty; name at least one task of lm-evaluation-harness")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}; expected at least 1 question, or null for all")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Loss and bits per byte of a model on token stores, by tag, with error bars over documents."""

    model_path: str
    """Folder of the model: an export, a training run, or a checkpoint of one."""
    sets: dict[str, str]
    """Tag -> token store. Tags with a part before a `/` in common are also measured together."""
    output_path: str
    """Folder that gets results.json and samples.jsonl."""
    max_documents: int | None = None
    """Documents of each set, spread evenly over it; None: all."""
    stride: int | None = None
    """Tokens that a window moves on in a long document; None is half of what the model reads."""
    checkpoint: str | None = None
    """Of a training run: `checkpoints/step-...`; None: the last."""
    tokenizer_path: str | None = None
    """Of a training run: the tokenizer's folder; None: the one that its config names."""
    tokens_per_batch: int = 4096
    """Tokens that the model reads in one call."""
    allow_unverified: bool = False
    """Evaluate an export whose files were changed since it was verified; the results say so."""

    def __post_init__(self) -> None:
        if not self.sets:
            raise ValueError("sets is empty; name at least one token store by its tag")
        if self.max_documents is not None and self.max_documents < 2:
            raise ValueError(f"max_documents is {self.max_documents}; an error bar needs at least 2, null takes all")


@dataclass(frozen=True, kw_only=True)
class TaskEvaluationConfig:
    """Ask a model tasks (`marin.evaluation.tasks`) and score its answers."""

    model_path: str
    """Folder of the model: an export, a training run, or a checkpoint of one."""
    output_path: str
    """Folder that gets results.json and samples.jsonl."""
    tasks: tuple[EvalTaskConfig, ...]
    """Tasks or groups, each at its number of shots."""
    data_path: str | None = None
    """Folder of the tasks' data; None: $MARIN_EVAL_DATA, else $MARIN_SHARED_DATA/eval."""
    checkpoint: str | None = None
    """Of a training run: `checkpoints/step-...`; None: the last."""
    tokenizer_path: str | None = None
    """Of a training run: the tokenizer's folder; None: the one that its config names."""
    average: bool = False
    """Of a training run: take the running average of the parameters that training kept."""
    limit: int | None = None
    """Questions of each task, the first so many; None: all."""
    fewshot_seed: int = 1234
    """Draws solved examples, where a task draws them."""
    metrics: Literal["lm_eval", "core"] = "lm_eval"
    """lm-evaluation-harness's metrics; "core" adds the CORE average of DataComp-LM."""
    mutual_information: bool = False
    """Add acc_mutual_info, for a second, short request for each candidate."""
    tokens_per_batch: int = 4096
    """Tokens that the model reads in one call."""
    allow_unverified: bool = False
    """Evaluate an export whose files were changed since it was verified; the results say so."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("tasks is empty; name at least one task of marin.evaluation.tasks")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}; expected at least 1 question, or null for all")


@dataclass(frozen=True, kw_only=True)
class CheckpointsConfig:
    """Ask every checkpoint of a training run the same tasks."""

    evaluation: TaskEvaluationConfig
    """What is asked; its model_path is the training run, its output_path gets the table, the curve and a folder for
    each checkpoint. Its checkpoint is not read."""
    every: int | None = None
    """Only checkpoints whose step is a multiple of it, and the last; None: all."""

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(f"every is {self.every}; expected at least 1 step, or null for every checkpoint")
