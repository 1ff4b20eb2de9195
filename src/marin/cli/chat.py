"""Talks with a model in its chat template.

MODEL as for `marin generate`. Type a message and Enter. Ctrl-C ends the answer that is being written, Ctrl-D or /quit
the chat. Commands:

  /reset         forget the conversation, but not the system message
  /system TEXT   begin anew with this system message; without TEXT with none
  /probs         show the tokens of the last answer with their probabilities
  /save FILE     append the conversation as one row {"messages": [...]} to a .jsonl file
"""

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from marin.cli.generate import (
    add_model_arguments,
    add_sampling_arguments,
    new_tokens_of,
    open_model_of,
    sampling_of,
    token_table,
)
from marin.cli.models import find_model
from marin.cli.output import UsageError, error_line, note

EXAMPLES = """\
  marin chat exports/sft
  marin chat exports/sft --system 'Answer in one sentence.' --temperature 0.7 --top-p 0.9
"""


def add_arguments(parser: ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--system", metavar="TEXT", help="a system message")
    parser.add_argument("--chat-template", metavar="FILE", help="Jinja text (else the one that the model brings)")
    parser.add_argument("--stop-token", metavar="TOKEN", help="special token that ends an answer, besides the model's")
    add_sampling_arguments(parser, temperature=1.0)


def run(arguments: Namespace) -> int:
    model = open_model_of(arguments)
    chat = _Chat(arguments, model)
    note("/reset, /system TEXT, /probs, /save FILE, /quit; Ctrl-C ends an answer")
    while True:
        try:
            line = _read_line()
        except KeyboardInterrupt:
            note("\n/quit or Ctrl-D ends the chat")
            continue
        if line is None or line.strip() in ("/quit", "/exit"):
            return 0
        if not line.strip():
            continue
        try:
            if line.startswith("/"):
                chat.command(line.strip())
            else:
                chat.say(line)
        except (ValueError, OSError) as error:
            error_line(str(error))


def _read_line() -> str | None:
    """What was typed; None at the end of the input. The prompt goes to stderr, so that stdout has answers alone."""
    print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.removesuffix("\n") if line else None


class _Chat:
    """A conversation with a model."""

    def __init__(self, arguments: Namespace, model: Any):
        self._model = model
        self._sampling = sampling_of(arguments)
        self._max_new_tokens = new_tokens_of(arguments, model)
        self._seed = arguments.seed
        self._template, self._stop_ids = _template(arguments, model)
        self._system = arguments.system
        self._turns: list[dict[str, str]] = []
        self._num_left_out = 0  # of the turns, which the model no longer reads
        self._last: Any = None

    def command(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "/reset":
            self._begin()
            note("the conversation begins anew")
        elif word == "/system":
            self._system = rest.strip() or None
            self._begin()
            note("the conversation begins anew, " + ("with that system message" if self._system else "with none"))
        elif word == "/probs":
            if self._last is None:
                raise ValueError("there is no whole answer whose probabilities could be shown: ask, and let it end")
            print(token_table(self._model.tokenizer, self._last), flush=True)
        elif word == "/save":
            if not rest.strip():
                raise ValueError("/save wants the name of a file, as in /save chat.jsonl")
            with open(rest.strip(), "a", encoding="utf-8") as file:  # behind the conversations that are there
                file.write(json.dumps({"messages": self._messages()}, ensure_ascii=False) + "\n")
            note(f"{len(self._messages())} messages, one more row of {rest.strip()}")
        else:
            raise ValueError(f"no command {word}; there are /reset, /system, /probs, /save and /quit")

    def say(self, text: str) -> None:
        """Answer a message, and keep both; a message that cannot be answered is not kept."""
        from marin.inference.text import generate_text

        self._turns.append({"role": "user", "content": text})
        self._last = None  # what is told of the last answer is not of the one before
        written: list[str] = []

        def show(_: int, new: str) -> None:
            written.append(new)
            print(new, end="", flush=True)

        try:
            [self._last] = generate_text(
                self._model.loaded,
                self._model.tokenizer,
                [self._prompt()],
                max_new_tokens=self._max_new_tokens,
                sampling=self._sampling,
                seed=self._seed + len(self._turns),
                stop_ids=self._stop_ids,
                on_text=show,
            )
            if self._last.num_prompt_tokens_cut:
                note(
                    f"\nthe first {self._last.num_prompt_tokens_cut} tokens of the message were too many for the model"
                )
        except KeyboardInterrupt:
            note("\n(the answer was ended)")
        except Exception:
            self._turns.pop()
            raise
        print(flush=True)
        answer = "".join(written)
        for name in self._model.tokenizer.special_tokens:  # a template takes none in a message
            answer = answer.replace(name, "")
        self._turns.append({"role": "assistant", "content": answer})

    def _begin(self) -> None:
        self._turns, self._num_left_out, self._last = [], 0, None

    def _messages(self, num_left_out: int = 0) -> list[dict[str, str]]:
        return ([{"role": "system", "content": self._system}] if self._system else []) + self._turns[num_left_out:]

    def _prompt(self) -> list[int]:
        """The tokens before the next answer; the oldest exchanges are left out of what the model cannot read."""
        room = self._model.loaded.config.seq_len - self._max_new_tokens
        before, tokens = self._num_left_out, self._encoded()
        while len(tokens) > room and len(self._turns) - self._num_left_out > 2:
            self._num_left_out += 2
            tokens = self._encoded()
        if self._num_left_out > before:
            count = self._num_left_out
            note(f"the {count} oldest messages were left out: the model reads {room} tokens before an answer")
        return tokens

    def _encoded(self) -> list[int]:
        from marin.evaluation.scoring import prefix_id

        tokens = [int(token) for token in self._template.encode_prompt(self._messages(self._num_left_out))]
        prefix = self._model.document_prefix
        if prefix is None:  # a template from elsewhere writes itself what stands in front
            return tokens
        first = prefix_id(self._model.tokenizer, prefix)
        return tokens if tokens[:1] == [first] else [first, *tokens]


def _template(arguments: Namespace, model: Any) -> tuple[Any, list[int]]:
    """The chat template, and the tokens that end an answer."""
    from marin.evaluation.models import model_chat
    from marin.processing.tokenize.chat import ChatTemplate
    from marin.processing.tokenize.config import ChatFormat

    chat = model_chat(find_model(arguments)[0], model.tokenizer)
    text = chat.template
    if arguments.chat_template is not None:
        try:
            text = Path(arguments.chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--chat-template {arguments.chat_template}: {error}") from error
    if text is None:
        raise UsageError(
            f"{arguments.model} has no chat template: it was not made to be talked with, or its folder lacks "
            "chat_template.jinja. Give the template that it was trained in (--chat-template FILE), train it on "
            "conversations (docs/how-to/sft.md), or complete texts with `marin generate`"
        )
    try:
        template = ChatTemplate(ChatFormat(template=text, stop_token=arguments.stop_token), model.tokenizer)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return template, sorted({template.stop_id, model.tokenizer.eos_id, *chat.end_ids})
