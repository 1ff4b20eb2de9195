"""What an evaluation is asked to do: plain values, so that planning one loads no tensor library."""

from dataclasses import dataclass

from marin.processing.tokenize.config import ChatFormat


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Score an exported model on held-out documents, beside baselines computed on the same documents."""

    model_path: str
    """Folder of the exported model: config.json, weights, tokenizer, parity.json."""
    documents_path: str
    """Folder of held-out documents, `documents-*.jsonl[.gz|.zst]`."""
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
class CompareConfig:
    """Compare the evaluations of two models, question by question."""

    a_paths: tuple[str, ...]
    """Folders with results.json and samples.jsonl of the one model; several are seeds of one recipe."""
    b_paths: tuple[str, ...]
    """Those of the other."""
    output_path: str
    """Folder that gets comparison.json and comparison.md."""
    a_name: str
    """What the page calls the one model."""
    b_name: str
    """What it calls the other."""
    tasks: tuple[str, ...] | None = None
    """Names or patterns of the tasks to compare; None: all that both have."""
    metrics: tuple[str, ...] | None = None
    """Metrics to compare; None: all."""
    num_disagreements: int = 5
    """Questions listed for each task in each direction."""

    def __post_init__(self) -> None:
        if not self.a_paths or not self.b_paths:
            raise ValueError(f"A has {len(self.a_paths)} evaluations and B {len(self.b_paths)}; expected one or more")
        if self.a_name == self.b_name:
            raise ValueError(f"both models are called {self.a_name!r}: nobody could tell them apart")
        if self.num_disagreements < 0:
            raise ValueError(f"num_disagreements is {self.num_disagreements}; expected 0 (list none) or more")


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
