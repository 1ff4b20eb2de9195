"""Questions of tasks as a conversation, in the chat template of the model.

The messages are those of lm-evaluation-harness 0.4.13 (`--apply_chat_template`): what stands before everything is the
system's, a question the user's, an answer the assistant's, and nothing stands between a question and its candidates,
since the template ends the user's turn. A task's own delimiters remain only where solved examples stand within the
user's turn. The price of asking in the harness's words is that a text which spells a special token of the tokenizer is
read as that token, as the harness's own backends read it.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from marin.evaluation.tasks.definition import Example, TaskDefinition
from marin.evaluation.tasks.question import prompt_hash
from marin.processing.tokenize.chat import ChatTemplate
from marin.processing.tokenize.config import ChatFormat
from marin.processing.tokenize.tokenizer import Tokenizer


class ChatPrompts:
    """Writes questions as conversations to which the model is to answer, and encodes what it wrote."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str | None = None,
        *,
        fewshot_as_multiturn: bool = True,
        system_instruction: str | None = None,
        end_ids: Sequence[int] = (),
    ):
        """A template of None is that of the tokenizer's folder; `end_ids` are tokens, beside the tokenizer's EOS, that
        end the model's turns.

        With `fewshot_as_multiturn` solved examples are turns of user and assistant; else they stand in the user's turn,
        before the question. `system_instruction` stands in the system's turn, before the task's own description.

        Raises ValueError where there is no template, one that the tokenizer's special tokens do not fit, and one that
        takes no system message although an instruction is given.
        """
        text = tokenizer.chat_template if template is None else template
        if text is None:
            raise ValueError(
                "the model has no chat template, so it cannot be asked in one: put a chat_template.jinja into its "
                "folder (a model fine-tuned by marin gets one when it is exported), or evaluate it without"
            )
        self._template = ChatTemplate(ChatFormat(template=text), tokenizer)
        self._multiturn = fewshot_as_multiturn
        self._system = system_instruction or ""
        self.encoder = SpecialTokens(tokenizer)
        """What encodes the prompts: special tokens in them are that."""
        self.stop_ids = tuple(sorted({tokenizer.eos_id, *end_ids}))
        """Tokens that end an answer."""
        self._template_hash = prompt_hash([text])
        self._takes_system = True
        self._template.rendered([_message("user", "a")])
        try:
            self._template.rendered([_message("system", "a"), _message("user", "b")])
        except ValueError as error:
            if self._system:
                raise ValueError(f"system_instruction {self._system[:60]!r}: {error}; leave it out") from error
            self._takes_system = False

    @property
    def description(self) -> dict[str, Any]:
        """How questions are put, for the record; another description is another evaluation."""
        return {
            "fewshot_as_multiturn": self._multiturn,
            "system_instruction": self._system or None,
            "template": self._template_hash,
        }

    def prompt(self, task: TaskDefinition, solved: Sequence[Example], context: str) -> str:
        """The text before the answer to `context`, after solved examples.

        Raises ValueError where the template refuses the messages.
        """
        messages = self.messages(task, solved, context)
        return self._template.rendered(messages, add_generation_prompt=True)

    def messages(self, task: TaskDefinition, solved: Sequence[Example], context: str) -> list[dict[str, str]]:
        """What the template is given: messages of role and content, the question last."""
        messages = []
        system = _joined(self._system, task.description, task.example_delimiter)
        if system and self._takes_system:
            messages.append(_message("system", system))
        if self._multiturn:
            for each in solved:
                messages += [_message("user", each.question), _message("assistant", each.answer)]
            return [*messages, _message("user", context)]
        before = (f"{each.question}{task.delimiter}{each.answer}{task.example_delimiter}" for each in solved)
        return [*messages, _message("user", "".join((*before, context)))]

    def notes(self, task: TaskDefinition) -> tuple[str, ...]:
        """What a reader of the task's scores must know."""
        if task.description and not self._takes_system:
            return ("the chat template takes no system message, so the task's description was left out",)
        return ()


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _joined(first: str, second: str, delimiter: str) -> str:
    """Both texts, with the delimiter between them where neither has whitespace there."""
    if not first or not second or first[-1].isspace() or second[0].isspace():
        return first + second
    return first + delimiter + second


class SpecialTokens:
    """A tokenizer that takes the special tokens spelled in a text for what they are, as chat templates write them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = tokenizer.special_tokens
        names = sorted(self._special, key=len, reverse=True)
        assert names, "a chat template has a special token, that which ends turns"
        self._split = re.compile("(" + "|".join(map(re.escape, names)) + ")")
        self.vocab_size, self.bos_id, self.eos_id = tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id
        self.adds_bos = tokenizer.adds_bos

    @property
    def token_bytes(self) -> Sequence[bytes]:
        return self._tokenizer.token_bytes

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        pieces = [[piece for piece in self._split.split(text) if piece] for text in texts]
        plain = self._tokenizer.encode_batch([p for each in pieces for p in each if p not in self._special])
        encoded = iter(plain)
        return [
            np.concatenate(
                [
                    np.empty(0, np.int32),
                    *(np.array([self._special[p]], np.int32) if p in self._special else next(encoded) for p in each),
                ]
            )
            for each in pieces
        ]
