"""Pages that would take a parser minutes or gigabytes, pages that are none, and pages that are broken."""

import time

import pytest

from marin.processing.extract.config import PageOptions
from marin.processing.extract.decode import NotHtml
from marin.processing.extract.page import TooLarge, extract_page
from marin.processing.extract.tree import MAX_DEPTH, TooDeep

MARKDOWN = PageOptions(output="markdown")
SENTENCE = "A sentence that is long enough to be taken for the content of a page."


def extract(html: str | bytes, method: str = "ours") -> str:
    return extract_page(html, method, MARKDOWN).text


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 100_000 + SENTENCE,
        "<div>" * 100_000 + SENTENCE + "</div>" * 100_000,
        "<ul><li>" * 100_000 + SENTENCE,
        "<table><tr><td>" * 20_000 + SENTENCE,
        "<span>" * 100_000 + SENTENCE,
        "<b>" * 100_000 + SENTENCE,
        "".join(f"<p><font color=c{number}>" for number in range(20_000)) + SENTENCE,
        "<p " + " ".join(f"a{number}=1" for number in range(100_000)) + f">{SENTENCE}",
    ],
    ids=["open", "closed", "lists", "tables", "spans", "bold", "fonts left open", "attributes"],
)
def test_what_would_take_a_parser_very_long_is_refused_at_once(html: str):
    began = time.process_time()
    with pytest.raises(TooDeep):
        extract(html)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("method", ["ours", "resiliparse", "trafilatura", "readability"])
def test_the_depth_is_bounded_for_every_method(method: str):
    with pytest.raises(TooDeep, match=str(MAX_DEPTH)):
        extract("<div>" * (MAX_DEPTH + 50) + SENTENCE, method)


@pytest.mark.parametrize("tag", ["div", "span", "ul><li", "blockquote", "b", "table><tr><td", "dl><dd", "section"])
def test_what_is_nested_almost_as_deep_as_allowed_is_read(tag: str):
    levels = (MAX_DEPTH - 10) // (1 + tag.count("<") + tag.count("table"))
    assert SENTENCE in extract(f"<{tag}>" * levels + f"<p>{SENTENCE}</p>").replace("> ", "")


def test_a_page_of_fifty_megabytes_is_refused_by_its_size():
    with pytest.raises(TooLarge, match="50,000,003 bytes"):
        extract(b"<p>" + b"x" * 50_000_000)


def test_elements_without_end_tags_are_no_depth():
    items = "".join(f"<li>{SENTENCE}" for _ in range(6000))
    assert extract(f"<ul>{items}</ul>").count(SENTENCE) == 6000
    drawing = "<svg>" + "<path d='M 0 0'/>" * 6000 + "</svg>"
    assert extract(f"<p>{SENTENCE}</p>{drawing}") == SENTENCE


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"%PDF-1.7 <<", "PDF"),
        (b"\x89PNG\r\n\x1a\n<", "PNG"),
        (b"\x1f\x8b\x08<p>", "gzip"),
        (bytes(range(256)) * 40, "binary"),
        (b"\x00" * 1000, "binary"),
        (b"", "nothing"),
        (b" \n ", "nothing"),
        (b"a line of words", "no tag"),
    ],
)
def test_what_is_no_page_is_refused_with_the_reason(raw: bytes, why: str):
    with pytest.raises(NotHtml, match=why):
        extract(raw)


@pytest.mark.parametrize(
    "html",
    [
        f"<p>{SENTENCE}",
        f"<p>{SENTENCE}</div></p></body></html></html>",
        f"<div><p>{SENTENCE}<div><b></div></b>",
        f"<table><p>{SENTENCE}</table>",
        f"<html><body><p>{SENTENCE}</p><body><p>",
        f"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'><body><p>{SENTENCE}<br/></p></body></html>",
        f"<p>{SENTENCE}</p><p class='",
        f"<!-- <p>no</p> --><p>{SENTENCE}</p><!--",
        f"<p>{SENTENCE}\x00</p>",
    ],
)
def test_broken_markup_gives_its_text(html: str):
    assert extract(html) == SENTENCE


def test_a_page_of_links_alone_gives_no_text_and_no_error():
    assert extract("<ul>" + "".join(f"<li><a href='/{n}'>link {n}</a></li>" for n in range(30)) + "</ul>") == ""
    assert extract("<html></html>") == ""
