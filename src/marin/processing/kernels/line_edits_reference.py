"""The line edits of `c4_lines` and `line_edits` in plain Python: which lines go, and in which order that is asked."""

import re

from marin.processing.kernels.c4_lines import C4_COUNTS, JAVASCRIPT, LOREM_IPSUM, POLICY_PHRASES
from marin.processing.kernels.characters import TERMINAL, WORD, character_classes
from marin.processing.kernels.line_edits import (
    COUNTED,
    DCLM_COUNTS,
    ITEMS_IN_CART,
    READ_MORE,
    SIGN_IN,
    SUBSTRING_LINE_WORDS,
)

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")


def c4_lines_reference(
    text: str,
    *,
    terminal_punctuation: bool = True,
    min_words: int = 3,
    max_word_chars: int = 1000,
    remove_citations: bool = True,
) -> tuple[str, dict[str, int]]:
    """(text of the lines that C4 keeps, counts). Raffel et al. 2020 (arXiv:1910.10683), section 2.2, and its code.

    The first reason counts. Lorem ipsum and curly brackets are counted only on lines that came so far, and such a line
    stays: they are reasons against the whole text.
    """
    counts = dict.fromkeys(C4_COUNTS, 0)
    kept = []
    for line in map(str.strip, text.splitlines()):
        counts["c4.num_lines"] += 1
        words = line.split()
        line = _CITATION.sub("", line) if remove_citations else line
        small = line.lower()
        ends = line.endswith((".", "?", "!", '"', "'")) and not line.endswith("...")
        if any(len(word) > max_word_chars for word in words):
            counts["c4.num_lines_long_word"] += 1
            continue
        if terminal_punctuation and not ends:
            counts["c4.num_lines_no_terminal"] += 1
            continue
        if len(words) < min_words:
            counts["c4.num_lines_few_words"] += 1
            continue
        if LOREM_IPSUM in small:
            counts["c4.num_lorem_ipsum"] += 1
        elif JAVASCRIPT in small:
            counts["c4.num_lines_javascript"] += 1
            continue
        elif "{" in line:
            counts["c4.num_curly_brackets"] += 1
        elif any(phrase in small for phrase in POLICY_PHRASES):
            counts["c4.num_lines_policy"] += 1
            continue
        counts["c4.num_kept_lines"] += 1
        counts["c4.num_sentences"] += num_sentences(line)
        kept.append(line)
    return "\n".join(kept).strip(), counts


def num_sentences(line: str) -> int:
    """Sentences of a line: it is cut behind sentence ends that no small letter follows, and not behind initials.

    A sentence end is a run of . ? ! and the like, with closing quotes and brackets, before a space or the line's end.
    """
    ends = 0
    position = 0
    is_terminal = [bool(character_classes()[ord(character)] & TERMINAL) for character in line]
    rest_begins = 0
    while position < len(line):
        if not is_terminal[position]:
            position += 1
            continue
        initial = line[position] == "." and re.search(r"(?:^|\s)\S\Z", line[:position]) and line[position - 1].isupper()
        while position < len(line) and is_terminal[position]:
            position += 1
        while position < len(line) and not (
            line[position].isspace() or is_terminal[position] or _is_word(line[position])
        ):
            position += 1
        following = line[position:].lstrip()
        cut = position == len(line) or line[position].isspace()
        if cut and not initial and not following[:1].islower():
            ends += 1
            rest_begins = position
    return ends + bool(line[rest_begins:].strip())


_KELVIN = "\u212a"  # the only letter but K itself whose small form is k


def _is_word(character: str) -> bool:
    return bool(character_classes()[ord(character)] & WORD)


def _any_case(phrase: str) -> str:
    """A pattern for a phrase in small and capital letters; re.IGNORECASE would take a dotless i for an i."""
    choices = (re.escape(c + c.upper()) + _KELVIN * (c == "k") for c in phrase)
    return "".join(f"[{choice}]" for choice in choices)


_COUNTER = re.compile(rf"\d[\d.,]*[kmbKMB\u212a]?\s+(?:{'|'.join(map(_any_case, COUNTED))})")


def _is_counter(line: str) -> bool:
    """Whether a line is nothing but a number of likes, views and such, between what is no word."""
    inside = [index for index, character in enumerate(line) if _is_word(character)]
    return bool(inside) and _COUNTER.fullmatch(line[inside[0] : inside[-1] + 1]) is not None


_SUBSTRINGS = (
    re.compile(rf"\s?{_any_case(ITEMS_IN_CART)}"),
    re.compile(rf"\s?{_any_case(READ_MORE)}\Z"),
    re.compile(rf"\A{_any_case(SIGN_IN)}\s?"),
)


def dclm_lines_reference(
    text: str, *, max_uppercase_ratio: float = 0.5, max_digit_ratio: float = 0.999999, min_words: int = 2
) -> tuple[str, dict[str, int]]:
    """(text of the lines that stay, counts): the line edits of DCLM's `dclm_baseline_refinedweb.yaml`, in its order.

    Unlike there, the text is stripped once before and once after, not between the edits; 'read more...' means three
    dots, not any three characters; and words are what stands between whitespace.
    """
    counts = dict.fromkeys(DCLM_COUNTS, 0)
    text = text.strip()
    counts["dclm.num_words_before"] = len(text.split())
    kept = []
    for line in text.split("\n") if text else []:
        counts["dclm.num_lines"] += 1
        if line and sum(map(str.isupper, line)) / len(line) > max_uppercase_ratio:
            counts["dclm.num_lines_uppercase"] += 1
            continue
        if line and sum(map(str.isdigit, line)) / len(line) > max_digit_ratio:
            counts["dclm.num_lines_numeric"] += 1
            continue
        if _is_counter(line):
            counts["dclm.num_lines_counter"] += 1
            continue
        if line and len(line.split()) < min_words:
            counts["dclm.num_lines_few_words"] += 1
            continue
        if line and len(line.split()) <= SUBSTRING_LINE_WORDS:
            for pattern in _SUBSTRINGS:
                line, num_removed = pattern.subn("", line)
                counts["dclm.num_substrings"] += num_removed
            if not line.strip():
                continue
        counts["dclm.num_kept_lines"] += 1
        counts["dclm.num_words_after"] += len(line.split())
        kept.append(line)
    return "\n".join(kept).strip(), counts
