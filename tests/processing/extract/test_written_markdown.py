"""Trees as Markdown and text: each construct by example, and what holds for all of them by property."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from marin.processing.extract.markdown import Style, fence_for
from marin.processing.extract.page import write_fragment


def markdown(html: str, **style: bool | str) -> str:
    return write_fragment(html, Style(markdown=True, **style))  # type: ignore[arg-type]


def text(html: str) -> str:
    return write_fragment(html, Style(markdown=False))


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<h2>A <b>b</b></h2><p>c</p>", "## A **b**\n\nc"),
        ("<p>a<b> b </b>c</p>", "a **b** c"),
        ("<p><b></b><i> </i>a</p>", "a"),
        ("<p>a\n   b<br>c</p>", "a b\nc"),
        ("<p>a<br><br>b</p>", "a\n\nb"),
        ("<p>x<sup>2</sup>, 1<sup>st</sup>, H<sub>2</sub>O</p>", "x^2, 1st, H2O"),
        ("<p>a<sup><a href='#n1'>1</a></sup>, b<sup><a href='/tm'>TM</a></sup></p>", "a, bTM"),
        ("<ul><li>a</li><li>b</li></ul>", "- a\n- b"),
        ("<ol start=9><li>a</li><li>b<ul><li>c</li></ul></li></ol>", "9. a\n10. b\n    - c"),
        ("<ul><li>a</li><ul><li>b</li></ul></ul>", "- a\n  - b"),
        ("<ul><li><p>a</p><p>b</p></li></ul>", "- a\n\n  b"),
        ("<blockquote>a<blockquote>b</blockquote></blockquote>", "> a\n>\n> > b"),
        ("<dl><dt>t</dt><dd>d<p>e</p></dd></dl>", "t\n: d\n\n  e"),
        ("<p>a</p><hr><p>b</p>", "a\n\n---\n\nb"),
        ("<table><tr><th>a</th><th>b</th></tr><tr><td>c|d</td></tr></table>", "| a | b |\n| --- | --- |\n| c\\|d |  |"),
        ("<table><tr><td><p>a</p><ul><li>b</li></ul></td><td>c</td></tr></table>", "a\n\n- b\n\nc"),
        ("<p><code>a  `b`</code></p>", "`` a `b` ``"),
        ("<pre>a\n```\nb</pre>", "````\na\n```\nb\n````"),
        ('<pre><code class="language-c++">x</code></pre>', "```c++\nx\n```"),
        ('<div class="highlight-python3"><div class="highlight"><pre>x</pre></div></div>', "```python3\nx\n```"),
        ("<pre>a<br>b<div>c</div>d</pre>", "```\na\nb\nc\nd\n```"),
        ('<pre><span class="linenos">1</span>a\n<span class="linenos">2</span>b</pre>', "```\na\nb\n```"),
        ("<span>a<div>b</div>c</span>", "a\n\nb\n\nc"),
        ("<p>a<script>b</script><style>c</style><textarea>d</textarea></p>", "a"),
        ("<p>a<span style='display:none'>b</span><i hidden>c</i></p>", "a"),
    ],
)
def test_a_construct_is_written_so(html: str, expected: str):
    assert markdown(html) == expected


def test_text_has_the_blocks_without_the_marks():
    html = "<h1>A</h1><p><b>b</b> <code>c</code></p><ul><li>d</li></ul><pre>  e</pre>"
    html += "<table><tr><td>f<td>g<tr><td>h</table>"
    assert text(html) == "A\n\nb c\n\n- d\n\n  e\n\nf | g\nh"


def test_links_images_and_references_are_kept_where_asked_for():
    html = '<p><a href="../b (c)">a</a> <a href="#x">top</a><sup><a href="#fn">[1]</a></sup> '
    html += '<img src="i.png" alt="see"></p>'
    assert markdown(html) == "a top"
    kept = markdown(html, keep_links=True, keep_images=True, keep_references=True, url="https://example.org/d/e")
    assert kept == "[a](https://example.org/b%20%28c%29) top[1] ![see](https://example.org/d/i.png)"


def test_addresses_that_lead_nowhere_are_no_links():
    html = '<p><a href="javascript:go()">a</a> <a name="x">b</a> <a href="http://[">c</a></p>'
    assert markdown(html, keep_links=True) == "a b [c](http://[)"


words = st.text(alphabet="abc xyz", min_size=1, max_size=20)
inline_tags = st.sampled_from(["b", "i", "code", "span", "a", "q", "sup", "del"])
block_tags = st.sampled_from(["div", "p", "ul", "ol", "li", "blockquote", "h2", "table", "td", "dl", "dd", "section"])
fragments = st.recursive(
    words,
    lambda inner: st.one_of(
        st.builds(lambda tag, parts: f"<{tag}>{''.join(parts)}</{tag}>", inline_tags, st.lists(inner, max_size=4)),
        st.builds(lambda tag, parts: f"<{tag}>{''.join(parts)}</{tag}>", block_tags, st.lists(inner, max_size=4)),
    ),
    max_leaves=25,
)
LETTERS = re.compile(r"[abcxyz]+")


@given(fragments)
@example("<table><td>b</td>a</table>")
def test_no_letter_is_lost_or_invented_and_no_tag_is_left(html: str):
    # HTML moves what stands in a table outside its cells in front of that table ("foster parenting")
    in_order = sorted if "<table>" in html else list
    shown = "".join(LETTERS.findall(re.sub(r"<[^>]*>", "", html)))
    for written in (markdown(html), text(html)):
        assert in_order("".join(LETTERS.findall(written))) == in_order(shown)
        assert "<" not in written and not re.search(r"[a-z]>", written)


@given(fragments)
def test_blocks_are_apart_by_one_empty_line_and_no_line_ends_in_spaces(html: str):
    for written in (markdown(html), text(html)):
        assert "\n\n\n" not in written
        assert written == written.strip("\n")


@given(st.text(alphabet="ab `~<>&\t\"'#*|", max_size=40), st.lists(st.text(alphabet=" a`}", max_size=12), max_size=6))
def test_code_keeps_every_character(first: str, rest: list[str]):
    code = "\n".join(["x" + first, *rest, "y"])
    escaped = code.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    fence = fence_for(code, 3)
    assert markdown(f"<pre>{escaped}</pre>") == f"{fence}\n{code}\n{fence}"
    assert text(f"<pre>{escaped}</pre>") == code


@given(fragments)
def test_text_without_marks_is_a_page_that_gives_itself(html: str):
    paragraphs = [" ".join(LETTERS.findall(block)) for block in text(html).split("\n\n")]
    again = text("".join(f"<p>{paragraph}</p>" for paragraph in paragraphs))
    assert again == "\n\n".join(filter(None, paragraphs))
