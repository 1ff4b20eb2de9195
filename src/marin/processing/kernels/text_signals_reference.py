"""The signals of `text_signals` in plain Python: what each of them means.

Ratios of nothing to nothing are 0. Lengths are in characters (code points) unless they say bytes.
"""

import re
from collections import Counter
from collections.abc import Sequence

from marin.processing.kernels.characters import IDEOGRAPH, SYMBOL, TERMINAL, WORD, character_classes
from marin.processing.kernels.text_signals import PARAGRAPH_CHARS, SHORT_LINE_CHARS, STOP_WORDS


def text_signals_reference(
    text: str, *, unicode_words: bool = False, stop_words: Sequence[str] = STOP_WORDS
) -> dict[str, float]:
    """Every signal of one text, by name."""
    words = unicode_word_split(text) if unicode_words else text.split()
    return {
        "text.num_bytes": len(text.encode()),
        "text.num_chars": len(text),
        "text.num_words": len(words),
        "text.num_lines": len(text.splitlines()),
        **gopher_quality(text, words, stop_words),
        **repetition(text, words),
        **fineweb(text, words),
        # lines that mC4 takes for paragraphs
        "c4.num_paragraphs": sum(len(line) >= PARAGRAPH_CHARS for line in text.split("\n")),
    }


def unicode_word_split(text: str) -> list[str]:
    """Runs of letters, digits, marks and connectors; single ideographs; any other single character but spaces."""
    words: list[str] = []
    before = 0
    for character in text:
        kind = int(character_classes()[ord(character)])
        if not character.isspace():
            if kind & WORD and before & WORD and not (kind | before) & IDEOGRAPH:
                words[-1] += character
            else:
                words.append(character)
        before = kind
    return words


def gopher_quality(text: str, words: list[str], stop_words: Sequence[str]) -> dict[str, float]:
    """Rae et al. 2021 (arXiv:2112.11446), appendix A.1; words of punctuation alone are none, as in datatrove."""
    lines = text.splitlines()
    real = [word for word in words if not _all_symbols(word)]
    return {
        "gopher.num_words": len(real),
        "gopher.mean_word_length": _ratio(sum(map(len, real)), len(real)),
        "gopher.hash_ratio": _ratio(text.count("#"), len(words)),
        "gopher.ellipsis_ratio": _ratio(text.count("...") + text.count("…"), len(words)),
        "gopher.bullet_line_ratio": _ratio(sum(line.lstrip().startswith(("•", "-")) for line in lines), len(lines)),
        "gopher.ellipsis_line_ratio": _ratio(sum(line.rstrip().endswith(("...", "…")) for line in lines), len(lines)),
        "gopher.alpha_word_ratio": _ratio(sum(any(map(str.isalpha, word)) for word in words), len(words)),
        # different ones, and all
        "gopher.num_stop_words": len(set(stop_words) & set(words)),
        "gopher.num_stop_word_occurrences": sum(word in stop_words for word in words),
    }


def repetition(text: str, words: list[str]) -> dict[str, float]:
    """Rae et al. 2021, table A1, counted as datatrove does: the first of equal things is no duplicate."""
    signals = {}
    pieces = {"line": re.split("\n+", text), "paragraph": re.split("\n{2,}", text.strip())}
    for unit, found in pieces.items():
        repeated = _repeated(found if text else [])
        signals[f"repetition.duplicate_{unit}_ratio"] = _ratio(len(repeated), len(found))
        signals[f"repetition.duplicate_{unit}_char_ratio"] = _ratio(sum(map(len, repeated)), len(text))
    for n in (2, 3, 4):
        signals[f"repetition.top_{n}gram_char_ratio"] = _ratio(_top_ngram_chars(words, n), len(text))
    for n in range(5, 11):
        signals[f"repetition.duplicate_{n}gram_char_ratio"] = _ratio(_duplicate_ngram_chars(words, n), len(text))
    return signals


def fineweb(text: str, words: list[str]) -> dict[str, float]:
    """Penedo et al. 2024 (arXiv:2406.17557), section 3.6, of the lines that are not blank."""
    lines = [line for line in text.split("\n") if line.strip()]
    ends = [character_classes()[ord(line[-1])] & TERMINAL != 0 for line in lines]
    num_newlines = text.count("\n")
    return {
        "fineweb.terminal_line_ratio": _ratio(sum(ends), len(lines)),
        "fineweb.short_line_ratio": _ratio(sum(len(line) <= SHORT_LINE_CHARS for line in lines), len(lines)),
        "fineweb.duplicate_line_char_ratio": _ratio(sum(map(len, _repeated(lines))), len(text) - num_newlines),
        "fineweb.newline_word_ratio": _ratio(num_newlines, len(words)),
    }


def _all_symbols(word: str) -> bool:
    return all(character_classes()[ord(character)] & SYMBOL for character in word)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _repeated(pieces: list[str]) -> list[str]:
    """Those that equal one before them."""
    seen: set[str] = set()
    return [piece for piece in pieces if piece in seen or seen.add(piece)]


def _top_ngram_chars(words: list[str], n: int) -> int:
    """Characters of the most frequent n-gram (of those, the first), its spaces too, times its number."""
    counts = Counter(" ".join(words[index : index + n]) for index in range(len(words) - n + 1))
    if not counts:
        return 0
    [(ngram, count)] = counts.most_common(1)
    return len(ngram) * count


def _duplicate_ngram_chars(words: list[str], n: int) -> int:
    """Characters, without spaces, of n-grams that were met before; behind such a one the search goes on."""
    seen: set[tuple[str, ...]] = set()
    index = num_chars = 0
    while index <= len(words) - n:
        ngram = tuple(words[index : index + n])
        if ngram in seen:
            num_chars += sum(map(len, ngram))
            index += n
        else:
            seen.add(ngram)
            index += 1
    return num_chars
