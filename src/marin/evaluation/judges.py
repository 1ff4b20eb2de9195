"""Judges say which of two outputs answers an instruction better; which one stands first must not decide.

A judge is anything with a name and `judge`. Those who read the outputs like the first, or the last, so each pair is
judged in both orders and the mean is taken; how often the two verdicts fall out differently is told, since that is how
far the judge is about places and not about outputs. The price is twice the calls; with `order="hash"` each pair is
judged once, in an order that a hash of the pair decides.
"""

import hashlib
import json
import math
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from marin.evaluation.config import HttpJudgeConfig, Order


class Judge(Protocol):
    """What compares two outputs."""

    @property
    def name(self) -> str:
        """What it is called in records."""
        ...

    @property
    def digest(self) -> str:
        """Of all that its verdicts depend on, such as its prompt; two judges of one name may differ in that."""
        ...

    def judge(self, instruction: str, output_a: str, output_b: str) -> float:
        """How far the second output is better: 1 (not at all) to 2 (surely), 1.5 where neither is."""
        ...


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a judge said of a baseline's and a model's output."""

    preference: float
    """In [1, 2], 2 where the model's output is better."""
    baseline_first: float | None
    """The same with the baseline's output in front; None where it was not judged so."""
    model_first: float | None
    """The same with the model's output in front."""

    @property
    def is_consistent(self) -> bool | None:
        """Whether both orders fall to the same side; None where only one was judged."""
        if self.baseline_first is None or self.model_first is None:
            return None
        return _side(self.baseline_first) == _side(self.model_first)


def _side(preference: float) -> int:
    return (preference > 1.5) - (preference < 1.5)


def judge_pair(
    judge: Judge, instruction: str, baseline: str, model: str, *, order: Order = "both", seed: int = 0
) -> Verdict:
    """The verdict on one pair; equal outputs are a draw that nobody is asked about.

    Raises ValueError for a judge that answers with something else than a number in [1, 2].
    """
    if baseline == model:
        return Verdict(preference=1.5, baseline_first=None, model_first=None)
    # the order of the calls is drawn, too, so that a judge with a memory is not always asked the same way first
    model_leads = hashlib.sha256(json.dumps([seed, instruction, baseline, model]).encode()).digest()[0] % 2 == 1
    found: dict[bool, float] = {}
    for lead in (model_leads, not model_leads) if order == "both" else (model_leads,):
        pair = (model, baseline) if lead else (baseline, model)
        said = _checked(judge, judge.judge(instruction, *pair))
        found[lead] = 3.0 - said if lead else said
    return Verdict(
        preference=sum(found.values()) / len(found),
        baseline_first=found.get(False),
        model_first=found.get(True),
    )


def _checked(judge: Judge, said: Any) -> float:
    if isinstance(said, bool) or not isinstance(said, int | float) or not 1 <= said <= 2:
        raise ValueError(
            f"judge '{judge.name}' said {said!r}: expected a number in [1, 2], 2 where the second is better"
        )
    return float(said)


def _digest(said: Any) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


class ReplayJudge:
    """Gives the verdicts of recorded annotations again, in either order."""

    def __init__(self, annotations: Sequence[Mapping[str, Any]], name: str = "replay"):
        """annotations: rows with instruction, output_1, output_2 and preference (2 where output_2 is better)."""
        self.name = name
        self._known: dict[tuple[str, str, str], float] = {}
        for row in annotations:
            preference = row.get("preference")
            if preference is not None:
                value = 1.5 if preference == 0 else float(preference)
                self._known[row["instruction"], row["output_1"], row["output_2"]] = value
                self._known.setdefault((row["instruction"], row["output_2"], row["output_1"]), 3.0 - value)
        self.digest = _digest([name, sorted([*pair, value] for pair, value in self._known.items())])

    def judge(self, instruction: str, output_a: str, output_b: str) -> float:
        """As `Judge.judge`. KeyError for a pair that was not recorded."""
        try:
            return self._known[instruction, output_a, output_b]
        except KeyError:
            raise KeyError(
                f"no recorded verdict on these two outputs for the instruction {instruction[:80]!r}: the "
                "annotations are of other outputs"
            ) from None


class HttpJudge:
    """Asks a model over HTTP, at temperature 0."""

    def __init__(self, config: HttpJudgeConfig):
        """ValueError where the variable that holds the key is not set."""
        self._config = config
        self.name = config.model
        # all but how its server is reached; another address may be another model under the same name
        how = ("api_key_env", "timeout_s", "num_retries", "wait_s")
        self.digest = _digest({name: value for name, value in asdict(config).items() if name not in how})
        self._headers = {"Content-Type": "application/json"}
        if config.api_key_env is not None:
            key = os.environ.get(config.api_key_env)
            if not key:
                raise ValueError(f"the environment has no {config.api_key_env}, which holds the key of the judge")
            self._headers["Authorization"] = f"Bearer {key}"

    def judge(self, instruction: str, output_a: str, output_b: str) -> float:
        """As `Judge.judge`. ConnectionError where the server gives no answer; ValueError for an answer that is none."""
        texts = {"instruction": instruction, "output_a": output_a, "output_b": output_b}
        # in one pass, so that a text that holds "{output_b}" is not filled in
        content = re.sub(r"\{(instruction|output_a|output_b)\}", lambda match: texts[match[1]], self._config.prompt)
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": 1 if self._config.use_log_probs else 8,
        }
        if self._config.use_log_probs:
            body |= {"logprobs": True, "top_logprobs": 5}
        answer = self._post(body)
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"]
            tokens = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self._config.url} answered {json.dumps(answer)[:200]}: expected choices[0].message.content"
            ) from error
        return _preference(text, tokens, self.name)

    def _post(self, body: Mapping[str, Any]) -> Any:
        config = self._config
        data = json.dumps(body).encode()
        for attempt in range(config.num_retries + 1):
            request = urllib.request.Request(config.url, data=data, headers=self._headers, method="POST")
            wait = config.wait_s * 2**attempt
            try:
                with urllib.request.urlopen(request, timeout=config.timeout_s) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                said = error.read(300).decode("utf-8", "replace")
                if error.code not in (408, 429) and error.code < 500:
                    raise ConnectionError(f"judge '{self.name}' at {config.url}: HTTP {error.code}: {said}") from error
                trouble = f"HTTP {error.code}: {said}"
                wait = _retry_after(error.headers.get("Retry-After"), wait)
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                trouble = str(error)
            except ValueError as error:
                raise ValueError(f"{config.url} answered with something that is no JSON: {error}") from error
            if attempt < config.num_retries:
                time.sleep(wait)
        raise ConnectionError(
            f"judge '{self.name}' at {config.url} gave no answer in {config.num_retries + 1} attempts: {trouble}. What "
            "was judged is kept; run again to go on"
        )


def _retry_after(header: str | None, otherwise: float) -> float:
    try:
        return max(0.0, float(header)) if header is not None else otherwise
    except ValueError:  # a date
        return otherwise


def _preference(text: Any, tokens: Any, name: str) -> float:
    """1 + P(B) from the probabilities of the first token, else from the letter."""
    chances = {"A": 0.0, "B": 0.0}
    for token in tokens or ():
        letter = str(token.get("token", "")).strip()
        if letter in chances:
            chances[letter] += math.exp(float(token["logprob"]))
    total = sum(chances.values())
    if total > 0:
        return 1.0 + chances["B"] / total
    letter = str(text or "").strip().strip("[]().\"'*").upper()
    if letter in chances:
        return 1.0 + (letter == "B")
    raise ValueError(f"judge '{name}' answered {text!r}: expected the letter A or B")
