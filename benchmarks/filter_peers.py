"""The filters of datatrove 0.10.1, one rule at a time, with words split at whitespace as ours are by default.

For the parity test and the benchmark; datatrove is no dependency of this project.
"""

import math
from collections.abc import Callable
from functools import partial

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4ParagraphFilter,
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    fineweb_quality_filter,
    gopher_quality_filter,
    gopher_repetition_filter,
)

_NO_QUALITY = dict.fromkeys(
    (
        *("min_doc_words", "max_doc_words", "min_avg_word_length", "max_avg_word_length", "max_symbol_word_ratio"),
        *("max_bullet_lines_ratio", "max_ellipsis_lines_ratio", "max_non_alpha_words_ratio", "min_stop_words"),
    )
)
_NO_REPETITION = {
    **dict.fromkeys(("dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac")),
    "top_n_grams": (),
    "dup_n_grams": (),
}
_NO_FINEWEB = {"line_punct_thr": 0, "short_line_thr": 1, "char_duplicates_ratio": 1, "new_line_ratio": math.inf}
_NO_C4 = {"min_num_sentences": -1, "filter_lorem_ipsum": False, "filter_curly_bracket": False}

# Reasons that datatrove gives where one setting of its stands for two of our rules.
REASONS = {"gopher_quality.hashes": "gopher_too_many_hashes", "gopher_quality.ellipses": "gopher_too_many_ellipsis"}

quality, repetition = partial(GopherQualityFilter, **_NO_QUALITY), partial(GopherRepetitionFilter, **_NO_REPETITION)
fineweb, c4 = partial(FineWebQualityFilter, **_NO_FINEWEB), partial(C4QualityFilter, **_NO_C4)


def whitespace_words() -> None:
    """From now on a word is for datatrove what stands between whitespace."""
    for module in (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter):
        module.split_into_words = lambda text, language=None: text.split()


def datatrove_rules() -> dict[str, Callable[..., object]]:
    """Our rule -> datatrove's filter with that rule alone; hash signs and ellipses share one setting there."""
    return {
        "gopher_quality.few_words": quality(min_doc_words=50),
        "gopher_quality.many_words": quality(max_doc_words=100_000),
        "gopher_quality.short_words": quality(min_avg_word_length=3),
        "gopher_quality.long_words": quality(max_avg_word_length=10),
        "gopher_quality.hashes": quality(max_symbol_word_ratio=0.1),
        "gopher_quality.ellipses": quality(max_symbol_word_ratio=0.1),
        "gopher_quality.bullets": quality(max_bullet_lines_ratio=0.9),
        "gopher_quality.ellipsis_lines": quality(max_ellipsis_lines_ratio=0.3),
        "gopher_quality.no_letters": quality(max_non_alpha_words_ratio=0.8),
        "gopher_quality.few_stop_words": quality(min_stop_words=2),
        "gopher_repetition.empty": repetition(),
        "gopher_repetition.duplicate_paragraph": repetition(dup_para_frac=0.3),
        "gopher_repetition.duplicate_paragraph_char": repetition(dup_para_char_frac=0.2),
        "gopher_repetition.duplicate_line": repetition(dup_line_frac=0.3),
        "gopher_repetition.duplicate_line_char": repetition(dup_line_char_frac=0.2),
        **{
            f"gopher_repetition.top_{n}gram_char": repetition(top_n_grams=((n, share),))
            for n, share in ((2, 0.2), (3, 0.18), (4, 0.16))
        },
        **{
            f"gopher_repetition.duplicate_{n}gram_char": repetition(dup_n_grams=((n, share),))
            for n, share in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1))
        },
        "fineweb_quality.no_sentences": fineweb(line_punct_thr=0.12),
        "fineweb_quality.short_lines": fineweb(short_line_thr=0.67),
        "fineweb_quality.duplicate_lines": fineweb(char_duplicates_ratio=0.01),
        "fineweb_quality.newlines": fineweb(new_line_ratio=0.3),
        "c4.lorem_ipsum": c4(filter_lorem_ipsum=True),
        "c4.curly_bracket": c4(filter_curly_bracket=True),
        "c4_paragraphs.few": C4ParagraphFilter(),
    }


def num_sentences(text: str) -> int:
    """Sentences of the lines of a text, as datatrove's C4 filter counts them for English: by spaCy's sentencizer."""
    from datatrove.utils.text import split_into_sentences
    from datatrove.utils.typeshelper import Languages

    return sum(len(split_into_sentences(line, Languages.english)) for line in text.splitlines())


def decision(peer: object, text: str) -> bool | str:
    """True if datatrove's filter keeps the text, else its reason."""
    result = peer.filter(Document(text=text, id=""))  # type: ignore[attr-defined]
    return True if result is True else result[1]


def c4_text(text: str) -> str:
    """The text as datatrove's C4 filter edits it."""
    document = Document(text=text, id="")
    assert c4().filter(document) is True
    return document.text
