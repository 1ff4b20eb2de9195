"""Take the answer out of a text that a model wrote, and compare it with the right one."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

INVALID = "[invalid]"
"""What an answer is where none was found; equal to no right answer."""

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Find:
    """The text that a pattern finds; of several, the first (which=0) or the last (which=-1)."""

    pattern: str
    which: int = 0

    def __call__(self, text: str) -> str:
        found = re.findall(self.pattern, text)
        if not found:
            return INVALID
        match = found[self.which]
        if isinstance(match, tuple):  # several groups: the first that took part
            match = next((part for part in match if part), INVALID)
        return match.strip()


@dataclass(frozen=True)
class Strip:
    """The text without whitespace at its ends."""

    def __call__(self, text: str) -> str:
        return text.strip()


Filter = Find | Strip


def extract(text: str, filters: Sequence[Filter]) -> str:
    """The text after each filter in turn."""
    for each in filters:
        text = each(text)
    return text


def exact_match(
    answer: str,
    targets: Sequence[str],
    *,
    remove: Sequence[str] = (),
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
) -> bool:
    """Whether the answer is one of the targets, after what does not count was removed from both alike."""

    def bare(text: str) -> str:
        for pattern in remove:
            text = re.sub(pattern, "", text)
        text = text.lower() if ignore_case else text
        return text.translate(_WITHOUT_PUNCTUATION) if ignore_punctuation else text

    return bare(answer) in {bare(target) for target in targets}
