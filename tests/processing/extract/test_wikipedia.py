"""Articles in both forms of Wikipedia's HTML, with and without links, references and infobox."""

import json
from typing import Any

import pytest

from marin.processing.extract.config import ArticleFormat
from marin.processing.extract.wikipedia import WikipediaArticle
from marin.processing.pipeline import Dropped

PARSOID = """<html><head><title>Weir</title></head><body>
<section data-mw-section-id="0"><div class="hatnote">For the surname, see elsewhere.</div>
<table class="infobox"><tbody><tr><th colspan="2">A weir</th></tr><tr><th>Made of</th><td><a href="./Stone">stone</a>,
wood</td></tr><tr><td colspan="2"><img src="w.jpg"></td></tr></tbody></table>
<p>A <b>weir</b> is a low <a rel="mw:WikiLink" href="./Dam_(barrier)">dam</a><sup class="mw-ref reference"><a
href="#c1">[1]</a></sup> over which water flows.<span class="mw-editsection">[edit]</span></p></section>
<section><h2 id="Flow">Flow</h2><p>It is <span class="mwe-math-element"><span class="mwe-math-mathml-inline"
style="display: none;"><math alttext="{\\displaystyle Q=CLH^{n}}"><mi>Q</mi></math></span><img
class="mwe-math-fallback-image-inline" alt="{\\displaystyle Q=CLH^{n}}"></span>.</p>
<figure><img src="x.png"><figcaption>A picture</figcaption></figure></section>
<section><h2>Empty</h2></section>
<section><h2>References</h2><div class="mw-references-wrap"><ol
class="references"><li>Ref. one</li></ol></div></section>
<section><h2>External links</h2><ul><li><a href="https://w.example">Weirs</a></li></ul></section>
<div class="navbox">Weirs by country</div></body></html>"""
ROW = {
    "name": "Weir",
    "identifier": 7,
    "url": "https://en.wikipedia.org/wiki/Weir",
    "date_modified": "2024-01-02T03:04:05Z",
    "in_language": {"identifier": "en"},
    "namespace": {"identifier": 0},
    "article_body": {"html": PARSOID},
}
SHOWN = """<body><h1>Weir</h1><div class="mw-parser-output"><p>A low dam.</p>
<div class="mw-heading mw-heading2"><h2>References</h2><span class="mw-editsection">[edit]</span></div><p>One.</p>
<h3>Books</h3><p>Two.</p><div class="mw-heading mw-heading2"><h2>Uses</h2></div><p>Many.</p></div></body>"""


def document(row: dict[str, Any], **format: Any) -> dict[str, Any]:
    made = WikipediaArticle(format=ArticleFormat(**format))(row)
    assert isinstance(made, dict)
    return made


def test_an_article_is_its_text_without_links_references_and_boxes():
    made = document(ROW)
    assert made["text"] == "# Weir\n\nA **weir** is a low dam over which water flows.\n\n## Flow\n\nIt is $Q=CLH^{n}$."
    assert json.loads(made["metadata"]) == {
        "article": 7,
        "date": "2024-01-02T03:04:05Z",
        "language": "en",
        "method": "wikipedia 2",
        "title": "Weir",
        "url": "https://en.wikipedia.org/wiki/Weir",
    }


def test_links_references_and_infobox_are_kept_where_asked_for():
    text = document(ROW, keep_links=True, keep_references=True, keep_infobox=True)["text"]
    assert text.startswith("# Weir\n\n- A weir\n- Made of: stone, wood\n\nA **weir** is a low ")
    assert "low [dam](https://en.wikipedia.org/wiki/Dam_%28barrier%29)[1] over" in text
    assert "## References\n\n1. Ref. one\n\n## External links\n\n- [Weirs](https://w.example)" in text
    assert "navbox" not in text and "country" not in text and "picture" not in text


def test_links_and_references_are_independent_choices():
    assert "[1]" not in document(ROW, keep_links=True)["text"]
    assert "](http" in document(ROW, keep_links=True)["text"]
    assert "](http" not in document(ROW, keep_references=True)["text"]
    assert "[1]" in document(ROW, keep_references=True)["text"]


def test_a_page_as_the_site_shows_it_is_read_too():
    assert document({"html": SHOWN, "title": "Weir"})["text"] == "# Weir\n\nA low dam.\n\n## Uses\n\nMany."
    kept = document({"html": SHOWN.encode(), "title": "Weir"}, keep_references=True, output="text")["text"]
    assert kept == "Weir\n\nA low dam.\n\nReferences\n\nOne.\n\nBooks\n\nTwo.\n\nUses\n\nMany."


def test_sections_to_leave_out_are_a_setting():
    text = document({"html": SHOWN, "title": "Weir"}, reference_sections=("USES",))["text"]
    assert "Many." not in text and "Two." in text


def test_what_is_no_article_is_dropped_and_a_row_without_html_is_refused():
    article = WikipediaArticle()
    assert article({**ROW, "namespace": {"identifier": 14}}) == Dropped("not an article")
    assert article({**ROW, "article_body": {"html": "<section></section>"}}) == Dropped("empty page")
    with pytest.raises(ValueError, match="no HTML: html is NoneType"):
        article({"name": "Weir"})
