"""Every rule's decision on two texts: one just inside its threshold, one just outside."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from marin.processing.filter.bad_words import BadWords
from marin.processing.filter.c4 import C4, C4Paragraphs
from marin.processing.filter.compression import CompressionRatio
from marin.processing.filter.dclm import DclmLines
from marin.processing.filter.filters import Filter
from marin.processing.filter.fineweb import FineWebQuality
from marin.processing.filter.gopher import GopherQuality, GopherRepetition
from marin.processing.filter.language import LanguageIs
from marin.processing.filter.url_lists import UrlLists, bare, domains_of
from marin.processing.pipeline.evaluate import evaluate
from marin.processing.pipeline.expressions import parse

# A hundred different words of four letters, none of them a stop word, and the same of ten.
WORDS = [
    a + b
    for a in ("ba", "de", "fi", "go", "hu", "ja", "ke", "li", "mo", "nu")
    for b in ("re", "sa", "ti", "po", "vu", "ma", "ne", "lo")
]
WORDS += [a + b for a in ("pa", "se") for b in ("ri", "so", "ta", "pe", "va", "mu", "ni", "le", "ro", "su")]
LONG = [f"{word}{word}{word[:2]}" for word in WORDS]
SENTENCE = "It rained in the hills and the river rose."


def words(number: int) -> str:
    """So many words, two of them stop words."""
    return " ".join(["the", "and", *WORDS * (number // len(WORDS) + 1)][:number])


def marked(number: int, marks: int, mark: Callable[[str], str]) -> str:
    """So many words, of which so many carry a mark."""
    return " ".join(mark(word) if index < marks else word for index, word in enumerate(words(number).split()))


def lines(number: int, special: int, of_special: Callable[[str], str]) -> str:
    """So many lines of six words, of which so many are special."""
    plain = [" ".join(WORDS[6 * index : 6 * index + 5] + ["the"]) for index in range(number)]
    return "\n".join(of_special(line) if index < special else line for index, line in enumerate(plain))


def share(repeated: int, whole: int, piece: str, joiner: str) -> str:
    """A text of `whole` characters in which `repeated` stand in a piece of one word that occurred before."""
    text = joiner.join([piece * repeated, "y " + "z", piece * repeated])
    return text + joiner + ("w" * (whole - len(text) - len(joiner)))


def with_ngram(n: int, times: int, whole: int) -> str:
    """A text of `whole` characters where n words of nine letters occur `times` times, each time between other words."""
    ngram = " ".join(f"{letter}" * 9 for letter in "abcdefghij"[:n])
    pieces = [f"{ngram} x{index}" for index in range(times)]
    text = " ".join(pieces)
    return text + " " + "v" * (whole - len(text) - 1)


def top(n: int, threshold: float) -> tuple[str, str]:
    """Texts in which the most frequent n-gram has exactly the share of the characters, and a little more."""
    whole = math.ceil(3 * (10 * n - 1) / threshold)
    return with_ngram(n, 3, whole), with_ngram(n, 3, whole - 1)


def duplicate(n: int, threshold: float) -> tuple[str, str]:
    """Likewise of n-grams that occurred before: twice n words of nine letters."""
    whole = math.ceil(2 * 9 * n / threshold)
    return with_ngram(n, 3, whole), with_ngram(n, 3, whole - 1)


FIFTY_OF_TEN = ["the", "and", *[f"{word}x" for word in LONG[:14]], *LONG[14:48]]
PARAGRAPHS = "\n\n"

# rule -> (filter, text that it lets stay, text that it drops)
CASES: dict[str, tuple[Filter, str, str]] = {
    "gopher_quality.few_words": (GopherQuality(), words(50) + " - # ...", words(49) + " - # ..."),
    "gopher_quality.many_words": (GopherQuality(max_words=60), words(60), words(61)),
    "gopher_quality.short_words": (GopherQuality(), "the and cat " * 20, "the and cat " * 19 + "the and at"),
    "gopher_quality.long_words": (
        GopherQuality(),
        " ".join(FIFTY_OF_TEN),
        " ".join([*FIFTY_OF_TEN[:-1], FIFTY_OF_TEN[-1] + "x"]),
    ),
    "gopher_quality.hashes": (GopherQuality(), marked(100, 10, "#{}".format), marked(100, 11, "#{}".format)),
    "gopher_quality.ellipses": (
        GopherQuality(),
        marked(100, 10, "{}...".format),
        marked(100, 10, "{}...".format) + "…",
    ),
    "gopher_quality.bullets": (GopherQuality(), lines(10, 9, "  - {}".format), lines(10, 10, "• {}".format)),
    "gopher_quality.ellipsis_lines": (GopherQuality(), lines(10, 3, "{}...".format), lines(10, 4, "{} … ".format)),
    "gopher_quality.no_letters": (
        GopherQuality(),
        marked(100, 20, lambda _: "17"),
        marked(100, 21, lambda _: "17"),
    ),
    "gopher_quality.few_stop_words": (
        GopherQuality(),
        " ".join([*WORDS, "with", "have"]),
        " ".join([*WORDS, "with", "with", "The"]),  # one, twice; capitals do not count
    ),
    "gopher_repetition.empty": (GopherRepetition(), "a", ""),
    "gopher_repetition.duplicate_paragraph": (
        GopherRepetition(),
        PARAGRAPHS.join([*WORDS[:7], "ok", "ok", "ok", WORDS[0]][1:]),
        PARAGRAPHS.join([*WORDS[:6], "ok", "ok", "ok", "ok", "ok"][1:]),
    ),
    "gopher_repetition.duplicate_paragraph_char": (
        GopherRepetition(),
        share(200, 1000, "x", PARAGRAPHS),
        share(200, 999, "x", PARAGRAPHS),
    ),
    "gopher_repetition.duplicate_line": (
        GopherRepetition(),
        "\n".join([*WORDS[:6], "ok", "ok", "ok", "ok"]),
        "\n".join([*WORDS[:5], "ok", "ok", "ok", "ok", "ok"]),
    ),
    "gopher_repetition.duplicate_line_char": (
        GopherRepetition(),
        share(200, 1000, "x", "\n"),
        share(200, 999, "x", "\n"),
    ),
    **{
        f"gopher_repetition.top_{n}gram_char": (GopherRepetition(), *top(n, threshold))
        for n, threshold in ((2, 0.2), (3, 0.18), (4, 0.16))
    },
    **{
        f"gopher_repetition.duplicate_{n}gram_char": (GopherRepetition(), *duplicate(n, threshold))
        for n, threshold in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
    },
    "fineweb_quality.no_sentences": (
        FineWebQuality(),
        lines(25, 3, "{}.".format),
        lines(25, 2, "{}.".format) + "\nhe said. \n",  # a space stands behind the full stop
    ),
    "fineweb_quality.short_lines": (
        FineWebQuality(),
        "\n".join(["z" * 30] * 67 + ["z" * 31] * 33),
        "\n".join(["z" * 30] * 68 + ["z" * 31] * 32),
    ),
    "fineweb_quality.duplicate_lines": (
        FineWebQuality(),
        "\n".join(["abcde", "x" * 490, "abcde"]),
        "\n".join(["abcdef", "x" * 490, "abcdef"]),
    ),
    "fineweb_quality.newlines": (FineWebQuality(), "a b c d e f g\n\n\nh i j", "a b c d e f g\n\n\n\nh i j"),
    "c4.lorem_ipsum": (C4(), "Lorem ipsum dolor\n" + SENTENCE, "A text with Lorem Ipsum in it.\n" + SENTENCE),
    "c4.curly_bracket": (C4(), "x = {}\nA line of javascript {.", SENTENCE + "\nAn odd { is here."),
    "c4.few_sentences": (C4(), f"{SENTENCE} {SENTENCE}\n" * 2 + SENTENCE, f"{SENTENCE}\n" * 4 + "It rained"),
    "c4_paragraphs.few": (
        C4Paragraphs(),
        "\n".join("x" * 200 for _ in range(3)),
        "\n".join(["x" * 200, "x" * 200, "x" * 199]),
    ),
    "dclm_lines.empty": (DclmLines(max_removed_word_ratio=None), "12 likes\nit is", "12 likes\nNO WAY\nhm"),
    "dclm_lines.removed_words": (
        DclmLines(),
        words(95) + "\nREAD THIS HERE NOW OR",
        words(94) + "\nREAD THIS HERE NOW OR",
    ),
    "compression_ratio.low": (CompressionRatio(min_ratio=0.2), words(130), words(1300)),
    "compression_ratio.high": (CompressionRatio(max_ratio=0.9), words(150), "".join(map(chr, range(33, 127)))),
}


def decisions(given: Filter, texts: list[str], **columns: list) -> dict[str, list[bool]]:
    """Rule -> its decision on each text."""
    batch = pa.record_batch({"id": [str(index) for index in range(len(texts))], "text": texts, **columns})
    for operation in given.operations():
        batch = operation(batch)
    return {rule.name: evaluate(parse(rule.keep), batch).to_pylist() for rule in given.rules()}


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_lets_one_text_stay_and_drops_the_other(rule: str):
    given, inside, outside = CASES[rule]
    assert decisions(given, [inside, outside])[rule] == [True, False]


def test_every_rule_on_texts_has_its_two_texts():
    given = [
        GopherQuality(),
        GopherRepetition(),
        FineWebQuality(),
        C4(),
        C4Paragraphs(),
        DclmLines(),
        CompressionRatio(),
    ]
    assert {rule.name for each in given for rule in each.rules()} == CASES.keys()


def test_a_rule_that_is_turned_off_is_none():
    off = GopherQuality(
        **{name: None for name in GopherQuality.__dataclass_fields__ if name.startswith(("min", "max"))}
    )
    assert off.rules() == ()
    assert [rule.name for rule in C4(min_sentences=None, reject_lorem_ipsum=False).rules()] == ["c4.curly_bracket"]


def test_stop_words_are_counted_as_dclm_does_where_that_is_asked():
    text = " ".join([*WORDS, "with", "with"])
    assert decisions(GopherQuality(distinct_stop_words=False), [text])["gopher_quality.few_stop_words"] == [True]


def test_words_by_unicode_rules_part_punctuation():
    text = words(30) + " " + ", ".join(LONG[:20])
    assert decisions(GopherQuality(min_words=50), [text])["gopher_quality.few_words"] == [True]
    given = GopherQuality(words="unicode", min_alpha_word_ratio=0.75)
    assert decisions(given, [text])["gopher_quality.no_letters"] == [False]  # 19 commas are words of no letter


def test_c4_keeps_lines_that_are_sentences():
    text = "Menu\nIt was late.[1]\n  And so they left the house [edit] quickly!  \nWe use cookies here.\n"
    text += "One two\nNo end ...\n"
    batch = pa.record_batch({"id": ["a"], "text": [text]})
    [row] = C4().operations()[0](batch).to_pylist()
    assert row["text"] == "It was late.\nAnd so they left the house  quickly!"
    assert {name: value for name, value in row.items() if name.startswith("c4.") and value} == {
        "c4.num_lines": 6,
        "c4.num_kept_lines": 2,
        "c4.num_lines_no_terminal": 3,
        "c4.num_lines_policy": 1,
        "c4.num_sentences": 2,
    }


def test_dclm_lines_take_out_what_no_article_has():
    text = "Sign-in The title\n\nTOP NEWS\n2024\n1.2k Likes\nHe came home. Read more...\nmenu\n3 items in cart now\n"
    batch = pa.record_batch({"id": ["a"], "text": [text]})
    [row] = DclmLines().operations()[0](batch).to_pylist()
    assert row["text"] == "The title\n\nHe came home.\n3 now"
    assert (row["dclm.num_substrings"], row["dclm.num_words_before"], row["dclm.num_words_after"]) == (3, 19, 7)
    assert row["dclm.removed_word_ratio"] == 12 / 19


def test_language_is_decided_by_its_columns():
    columns = {"language": ["en", "en", "de", "fr"], "language_score": [0.65, 0.64, 0.99, 0.99]}
    found = decisions(LanguageIs(languages=("en", "de")), ["", "", "", ""], **columns)
    assert found == {"language.other": [True, True, True, False], "language.unsure": [True, False, True, True]}


def test_a_listed_word_drops_a_text_and_a_share_stays_by_id(tmp_path: Path):
    listed = tmp_path / "words.txt"
    listed.write_text("# none of these\nDarn\nhot dog\nc#\n", encoding="utf-8")
    texts = ["Darn!", "darned", "a HOT dog.", "hot dogs", "hot\ndog", "C# and such", "c#x", ""]
    given = BadWords(path=str(listed))
    assert decisions(given, texts)["bad_words.found"] == [False, True, False, True, True, False, True, True]
    [stay] = decisions(BadWords(path=str(listed), keep_fraction=0.25), ["darn"] * 4000).values()
    assert 0.22 < sum(stay) / len(stay) < 0.28
    unspaced = BadWords(path=str(listed), spaces_between_words=False)
    assert decisions(unspaced, ["darned"])["bad_words.found"] == [False]


def test_a_list_that_changes_or_is_empty_is_an_error(tmp_path: Path):
    listed = tmp_path / "words.txt"
    listed.write_text("darn")
    [operation] = BadWords(path=str(listed)).operations()
    listed.write_text("darn\ndrat")
    batch = pa.record_batch({"id": ["a"], "text": ["x"]})
    with pytest.raises(ValueError, match=r"words\.txt has changed since this stage began"):
        operation(batch)
    listed.write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"words\.txt has no entries"):
        BadWords(path=str(listed)).operations()[0](batch)
    with pytest.raises(FileNotFoundError, match="one entry a line"):
        BadWords(path=str(tmp_path / "absent.txt")).operations()


def test_an_address_on_a_list_drops_its_document(tmp_path: Path):
    lists = {
        "domains": "bad.example\nhttps://Listed.example/\n.below.example\nb\u00fccher.example\n",
        "urls": "https://www.fine.example/bad-page/\nwww.other.example/page/\nthird.example/?to=http://x.example/\n",
        "words": "casino\n",
        "soft_words": "free\nwin\nbet\n",
        "substrings": "badword\n",
    }
    for kind, text in lists.items():
        (tmp_path / kind).write_text(text, encoding="utf-8")
    given = UrlLists(**{kind: str(tmp_path / kind) for kind in lists})
    urls = {
        "https://www.fine.example/": None,
        "http://a.b.bad.example:8080/x": "domains",
        "https://notbad.example/": None,
        "//BAD.example": "domains",
        "fine.example/bad-page": "urls",
        "https://fine.example/bad-page/2": None,
        "https://listed.example/x": "domains",
        "https://a.below.example/x": "domains",
        "http://other.example/page": "urls",
        "https://www.other.example/page/": "urls",
        "https://third.example/?to=http://x.example": "urls",
        "http://x.example": None,
        "https://fine.example/the-casino/": "words",
        "https://fine.example/casinos/": None,
        "https://fine.example/free/win": "soft_words",
        "https://fine.example/free/free": None,
        "https://bad.word.example/": "substrings",
        "https://[::1/": None,
    }
    metadata = [json.dumps({"url": url}) for url in urls]
    found = decisions(given, [""] * len(urls), metadata=metadata)
    for row, (url, kind) in enumerate(urls.items()):
        assert {name for name, stays in found.items() if not stays[row]} == (
            {f"url_lists.{kind}"} if kind else set()
        ), url
    assert decisions(given, [""], url=["https://bad.example"])["url_lists.domains"] == [False]


def test_an_address_among_domains_is_refused(tmp_path: Path):
    (tmp_path / "domains").write_text("bad.example/page\n")
    with pytest.raises(ValueError, match="'bad.example/page' is an address, .*: list it under urls"):
        decisions(UrlLists(domains=str(tmp_path / "domains")), [""], url=["https://bad.example"])


def test_a_document_without_an_address_is_what_one_says_it_is(tmp_path: Path):
    (tmp_path / "domains").write_text("bad.example")
    path = str(tmp_path / "domains")
    with pytest.raises(ValueError, match=r"document '0' has no address.*missing_url"):
        decisions(UrlLists(domains=path), ["text"])
    assert decisions(UrlLists(domains=path, missing_url="keep"), ["text"], metadata=["{}"]) == {
        "url_lists.domains": [True]
    }
    assert decisions(UrlLists(domains=path, missing_url="drop"), ["text"])["url_lists.missing"] == [False]


def test_hosts_and_bare_addresses():
    assert domains_of("http://user@A.b.org:80/x?y") == ["a.b.org", "b.org", "org"]
    assert bare("https://www.a.org/x/") == bare("a.org/x") == "a.org/x"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GopherQuality(words="spacy"),
            "words is 'spacy'; a word is found by 'whitespace' or by 'unicode' rules",
        ),  # type: ignore[arg-type]
        (lambda: GopherRepetition(max_top_ngram_char_ratio=(0.1,) * 4), "has 4 thresholds; there are signals for 3"),
        (lambda: CompressionRatio(codec="xz"), "codec is 'xz'; there are lz4, zstd, zlib"),  # type: ignore[arg-type]
        (lambda: CompressionRatio(codec="zlib", window_log=16), "window_log of zlib is 16; it can be 9 to 15"),
        (lambda: UrlLists(), "UrlLists without a list drops nothing"),
        (lambda: BadWords(path="x", keep_fraction=2), "keep_fraction is 2; it is a share of documents"),
        (lambda: LanguageIs(languages=()), "no document could stay"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(make: Callable[[], Filter], message: str):
    with pytest.raises(ValueError, match=message):
        make()
