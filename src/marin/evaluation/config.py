"""What an evaluation is asked to do: plain values, so that planning one loads no tensor library."""

from dataclasses import dataclass
from typing import Literal, get_args

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
    """Metrics to compare, "all" for every one; None: of each task the metric that it is known by."""
    num_disagreements: int = 5
    """Questions listed for each task in each direction."""

    def __post_init__(self) -> None:
        if not self.a_paths or not self.b_paths:
            raise ValueError(f"A has {len(self.a_paths)} evaluations and B {len(self.b_paths)}; expected one or more")
        if self.a_name == self.b_name:
            raise ValueError(f"both models are called {self.a_name!r}: nobody could tell them apart")
        if self.num_disagreements < 0:
            raise ValueError(f"num_disagreements is {self.num_disagreements}; expected 0 (list none) or more")


Order = Literal["both", "hash"]
"""Judge each pair in both orders, or in one that its hash decides."""

JUDGE_PROMPT = """\
Below are an instruction and two answers to it. Decide which answer a careful person would find more helpful, correct \
and fitting. The order of the answers and their length mean nothing.

[Instruction]
{instruction}

[Answer A]
{output_a}

[Answer B]
{output_b}

Reply with one letter, A or B, and nothing else."""
"""What a judge is asked, if nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class HttpJudgeConfig:
    """A model behind a chat-completions address, as OpenAI's and most servers have it."""

    url: str
    """The whole address, ending in /chat/completions."""
    model: str
    """Name of the model there; with its date or revision, if a verdict is to mean the same next year."""
    api_key_env: str | None = None
    """Environment variable that holds the key; None: no key is sent. The key itself is never written down."""
    prompt: str = JUDGE_PROMPT
    """With {instruction}, {output_a} and {output_b}; asks for the letter A or B."""
    use_log_probs: bool = True
    """Ask for the probabilities of both letters and take P(B) / (P(A) + P(B)); else the letter alone."""
    timeout_s: float = 60.0
    """For one answer."""
    num_retries: int = 5
    """After errors that may pass: 408, 429, 5xx, no connection."""
    wait_s: float = 1.0
    """Before the first retry, doubled each time, unless the server says how long."""

    def __post_init__(self) -> None:
        missing = [name for name in ("{instruction}", "{output_a}", "{output_b}") if name not in self.prompt]
        if missing:
            raise ValueError(f"the judge's prompt lacks {', '.join(missing)}")
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url is {self.url!r}; expected http://... or https://..., ending in /chat/completions")
        if self.num_retries < 0 or self.timeout_s <= 0 or self.wait_s < 0:
            raise ValueError("num_retries and wait_s must be 0 or more, timeout_s above 0")


@dataclass(frozen=True, kw_only=True)
class AlpacaEvalConfig:
    """Win rates of a model's outputs against a baseline's: from recorded annotations, or by a judge."""

    output_path: str
    """Folder that gets results.json, samples.jsonl and, where a judge was asked, annotations.json."""
    annotations_path: str | None = None
    """Recorded annotations, JSON or JSON lines; None: a judge is asked."""
    model_outputs_path: str | None = None
    """What the model answered: rows of instruction, output, generator."""
    model_path: str | None = None
    """Or the folder of an exported chat model, which answers the baseline's instructions now."""
    baseline_outputs_path: str | None = None
    """What the baseline answered."""
    judge: HttpJudgeConfig | None = None
    """Who is asked."""
    model_name: str | None = None
    """Generator that counts as the model in recorded annotations; None: generator_2."""
    annotator: str | None = None
    """Whose recorded annotations to take where there are several."""
    difficulties_path: str | None = None
    """df_gamed.csv or instruction_difficulty.csv of tatsu-lab/alpaca_eval, for the full forms of length control."""
    chat: ChatFormat | None = None
    """How a model at model_path is spoken to; ChatFormat(template=None) takes the template of its folder."""
    max_new_tokens: int = 1024
    """Tokens of an answer, at most; instructions that leave no room for them are left out and counted."""
    temperature: float = 0.7
    """At which answers are drawn; 0 is greedy."""
    tokens_per_batch: int = 4096
    """Tokens that the model reads in one call."""
    allow_unverified: bool = False
    """Take an export without a passing parity.json."""
    order: Order = "both"
    """Judge each pair in both orders, or in one that its hash decides."""
    seed: int = 0
    """Goes into that hash, and decides what is drawn."""
    max_instructions: int | None = None
    """Judge at most so many pairs; None: all."""

    def __post_init__(self) -> None:
        answers = [path for path in (self.model_outputs_path, self.model_path) if path is not None]
        if self.annotations_path is not None and (answers or self.baseline_outputs_path or self.judge):
            raise ValueError("give recorded annotations, or outputs with a judge, not both")
        if self.annotations_path is None and (
            len(answers) != 1 or self.baseline_outputs_path is None or self.judge is None
        ):
            raise ValueError(
                "give annotations_path to count recorded annotations; or, to have outputs judged, one of "
                "model_outputs_path and model_path, with baseline_outputs_path and judge"
            )
        if self.model_path is not None and self.chat is None:
            raise ValueError("a model at model_path takes chat, the form of its conversations")
        if self.max_new_tokens < 1 or self.temperature < 0:
            raise ValueError(
                f"max_new_tokens is {self.max_new_tokens} and temperature {self.temperature}; expected 1 or more, and "
                "0 (greedy) or more"
            )
        if self.order not in get_args(Order):
            raise ValueError(f"order is {self.order!r}; expected {' or '.join(map(repr, get_args(Order)))}")
        if self.max_instructions is not None and self.max_instructions < 2:
            raise ValueError(f"max_instructions is {self.max_instructions}; an error bar takes 2 at least")


@dataclass(frozen=True, kw_only=True)
class DocumentMemorizationConfig:
    """P(z) over windows that slide along documents: how likely a model is to write them out again."""

    model_path: str
    """Folder of the exported model."""
    documents_path: str
    """Folder of the documents, `documents-*.jsonl[.gz|.zst]`."""
    output_path: str
    """Folder that gets results.json, samples.jsonl, windows.jsonl.gz, memorization.md and a plot a document."""
    prefix_length: int = 50
    """Tokens shown."""
    suffix_length: int = 50
    """Tokens asked for."""
    stride: int = 5
    """Tokens that a window moves on."""
    max_documents: int | None = None
    """Take at most so many, the first; None: all."""
    thresholds: tuple[float, ...] = (0.001, 0.01, 0.1, 0.5)
    """Values of P(z) over which windows and characters are counted."""
    num_draws: tuple[int, ...] = (1, 100, 10_000)
    """For each n: the share of windows that n draws give with discovery_probability or more."""
    discovery_probability: float = 0.5
    """p of (n, p)-discoverable."""
    tokens_per_batch: int = 4096
    """Tokens that the model reads in one call."""
    allow_unverified: bool = False
    """Measure an export without a passing parity.json; the results say so."""

    def __post_init__(self) -> None:
        for name in ("prefix_length", "suffix_length", "stride", "tokens_per_batch", "max_documents"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        if not self.thresholds or not all(0 < threshold <= 1 for threshold in self.thresholds):
            raise ValueError(f"thresholds are {self.thresholds}; expected probabilities above 0, at most 1")
        if any(count < 1 for count in self.num_draws):
            raise ValueError(f"num_draws are {self.num_draws}; expected 1 or more each")
        if not 0 < self.discovery_probability < 1:
            raise ValueError(f"discovery_probability is {self.discovery_probability}; expected between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class ChatEvaluationConfig:
    """Score an exported model on held-out conversations, beside the model that it was before."""

    model_path: str
    """Folder of the exported model."""
    conversations_path: str
    """Held-out conversations: a folder of JSON lines (also .gz, .zst), parquet or Arrow, one such file, or a glob."""
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
    fewshot_as_multiturn: bool = True
    """In a chat template: solved examples are turns of user and assistant; false: they stand in the user's turn."""
    system_instruction: str | None = None
    """Stands before the task's own description, in a chat template as the system's turn."""
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
        files = [task.file for task in self.tasks if task.file is not None]
        if files:
            raise ValueError(f"tasks names the file {files[0]}: the harness takes questions of your own as YAML files")
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
    apply_chat_template: bool = False
    """Ask as a user asks, in the chat template of the model."""
    fewshot_as_multiturn: bool = True
    """In a chat template: solved examples are turns of user and assistant; false: they stand in the user's turn."""
    system_instruction: str | None = None
    """In a chat template: the system's turn, before the task's own description."""
    tokens_per_batch: int = 4096
    """Tokens that the model reads in one call."""
    allow_code_execution: tuple[str, ...] = ()
    """Tasks of which programs that the model wrote may be run (`marin.evaluation.code_execution` says what guards that
    and what not); others that would are skipped."""
    allow_unverified: bool = False
    """Evaluate an export whose files were changed since it was verified; the results say so."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("tasks is empty; name at least one task of marin.evaluation.tasks")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}; expected at least 1 question, or null for all")
        if not self.apply_chat_template and (not self.fewshot_as_multiturn or self.system_instruction is not None):
            raise ValueError("fewshot_as_multiturn=false and system_instruction go with apply_chat_template=true")


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
