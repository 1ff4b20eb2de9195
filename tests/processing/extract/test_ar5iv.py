"""Papers as LaTeXML writes them."""

import json
from typing import Any

import pytest

from marin.processing.extract.ar5iv import Ar5ivPaper, arxiv_id_of
from marin.processing.extract.config import PaperFormat
from marin.processing.pipeline import Dropped

PAPER = r"""<html><head><title>[2404.01234] On Weirs</title></head><body><nav>ar5iv</nav><div
class="ltx_page_content">
<article class="ltx_document"><h1 class="ltx_title ltx_title_document">On Weirs</h1>
<div class="ltx_authors"><span class="ltx_personname">A. Miller</span></div>
<div class="ltx_abstract"><h6 class="ltx_title ltx_title_abstract">Abstract</h6><p class="ltx_p">We measure
<math alttext="x_{1}" display="inline"><mi>x</mi></math> as in <cite class="ltx_cite">[<a
href="#b3">3</a>, <a>4</a>]</cite>.
So did <cite class="ltx_cite">Smith (<a>2020</a>)</cite><span class="ltx_note ltx_role_footnote"><sup
class="ltx_note_mark">1</sup><span class="ltx_note_outer"><span class="ltx_note_content"><sup
class="ltx_note_mark">1</sup>In spring.</span></span></span>.</p></div>
<section class="ltx_section"><h2 class="ltx_title ltx_title_section"><span class="ltx_tag">1 </span>Flow</h2>
<div class="ltx_theorem"><h6 class="ltx_title ltx_title_theorem">Theorem 1.</h6><p class="ltx_p">It holds that</p>
<table class="ltx_equation ltx_eqn_table"><tbody><tr class="ltx_equation ltx_eqn_row"><td><math display="block"
alttext="\displaystyle Q=CLH^{n}"><mi>Q</mi></math></td><td><span
class="ltx_tag ltx_tag_equation">(1)</span></td></tr></tbody></table>
<table class="ltx_equationgroup ltx_eqn_table"><tbody><tr class="ltx_equation"><td><math
alttext="a"></math></td><td><math
alttext="=b"></math></td></tr><tr class="ltx_equation"><td><math alttext="c"></math></td><td><math
alttext="=d"></math></td></tr></tbody></table></div>
<figure class="ltx_figure"><img src="f.png"><figcaption>Figure 1: A weir</figcaption></figure>
<figure class="ltx_table"><figcaption>Table 1: Weirs</figcaption><table
class="ltx_tabular"><tbody><tr><td>n</td><td>H</td></tr>
<tr><td>1</td><td>2.5</td></tr></tbody></table></figure>
<div class="ltx_listing"><div class="ltx_listingline"><span
class="ltx_tag ltx_tag_listingline">1</span><span>def f():</span></div>
<div class="ltx_listingline">  <span>return 1</span></div></div><p>A <span
class="ltx_ERROR">\foo</span>gap.</p></section>
<section class="ltx_bibliography"><h2>References</h2><ul><li>[3] Weirs.</li></ul></section></article></div>
<footer class="ltx_page_footer">Generated</footer></body></html>"""


def document(**format: Any) -> dict[str, Any]:
    made = Ar5ivPaper(format=PaperFormat(**format))({"html": PAPER, "filename": "papers/2404.01234.html"})
    assert isinstance(made, dict)
    return made


def test_a_paper_is_its_sections_formulas_and_tables():
    made = document()
    assert made["text"] == (
        "# On Weirs\n\n## Abstract\n\nWe measure $x_{1}$ as in. So did Smith (2020).\n\n## 1 Flow\n\n**Theorem 1.**\n\n"
        "It holds that\n\n$$\nQ=CLH^{n}\n$$\n\n$$\na =b \\\\ c =d\n$$\n\nTable 1: Weirs\n\n| n | H |\n| --- | --- |\n"
        "| 1 | 2.5 |\n\n```\ndef f():\n  return 1\n```\n\nA gap."
    )
    assert json.loads(made["metadata"]) == {
        "arxiv_id": "2404.01234",
        "method": "ar5iv 2",
        "num_conversion_errors": 1,
        "title": "On Weirs",
        "url": "https://arxiv.org/abs/2404.01234",
    }


def test_references_authors_footnotes_and_captions_are_kept_where_asked_for():
    text = document(keep_references=True, keep_authors=True, keep_footnotes=True, keep_captions=True)["text"]
    assert "as in [3, 4]. So did Smith (2020) (Footnote: In spring.)." in text
    assert "A. Miller" in text and "Figure 1: A weir" in text
    assert text.endswith("## References\n\n- [3] Weirs.")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"url": "https://ar5iv.org/abs/2404.01234v2"}, "2404.01234v2"),
        ({"filename": "math/0211159.html"}, "math/0211159"),
        ({"arxiv_id": "hep-th/9901001", "url": "2404.01234"}, "hep-th/9901001"),
        ({"id": "urn:uuid:1234"}, ""),
    ],
)
def test_the_number_of_a_paper_is_found(row: dict[str, str], expected: str):
    assert arxiv_id_of(row) == expected


def test_a_page_without_a_paper_is_dropped_and_a_row_without_html_refused():
    assert Ar5ivPaper()({"html": "<html><body><nav>ar5iv</nav></body></html>"}) == Dropped("empty page")
    with pytest.raises(ValueError, match="no HTML"):
        Ar5ivPaper()({"text": "x"})
