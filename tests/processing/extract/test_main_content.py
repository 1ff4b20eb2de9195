"""What of a page is its content, by example, and by the annotated pages of a public benchmark."""

import sys
from pathlib import Path

import pytest

from marin.processing.extract.config import PageOptions
from marin.processing.extract.content import ABOUT, AWAY, CAPTION, CONTENT, marks_of
from marin.processing.extract.page import extract_page

FIRST = "The first paragraph of the article says at some length what there is to say about it."
SECOND = "The second paragraph goes on, and is no shorter than the one that stands before it here."


def text(html: str) -> str:
    return extract_page(html, "ours", PageOptions(output="text")).text


ARTICLE = f"<div id='text'><p>{FIRST}</p><p>{SECOND}</p></div>"
BOTH = f"{FIRST}\n\n{SECOND}"


@pytest.mark.parametrize(
    "around",
    [
        "<nav><ul><li><a href='/'>Home</a></li></ul></nav>{}",
        "{}<footer><p>All rights reserved by whoever it was that wrote this page, in that year and since.</p></footer>",
        "{}<div class='comments'><p>I should like to add that I never agreed with any of this, then or now.</p></div>",
        "{}<div id='sidebar-right'><p>Subscribe, and you will get more of these than you can possibly read.</p></div>",
        "<div class='cookie-notice'><p>We use cookies, as does everybody, and ask you to agree with it.</p></div>{}",
        "<ul><li><a href='/1'>A link to somewhere else</a></li><li><a href='/2'>And another one</a></li></ul>{}",
        "<div aria-hidden='true'><p>What is hidden from readers who listen is no text of the page at all.</p></div>{}",
        "<table><tr><td><a href='/a'>Menu</a></td><td>{}</td></tr></table>",
        "<form>{}</form>",
    ],
)
def test_what_stands_around_the_content_is_left_out(around: str):
    assert text(f"<body>{around.format(ARTICLE)}</body>") == BOTH


def test_a_name_does_not_cut_most_of_a_page():
    assert text(f"<body><div class='sidebar'>{ARTICLE}</div></body>") == BOTH
    assert text(f"<body class='comments-open'><div class='content-with-sidebar'>{ARTICLE}</div></body>") == BOTH


def test_headings_and_leads_before_the_content_are_kept():
    lead = "What the article is about, in one sentence that is printed in bold letters above it."
    page = f"<main><header><h1>Title</h1><p>{lead}</p></header><div><div>{ARTICLE * 4}</div></div></main>"
    assert text(page).startswith(f"Title\n\n{lead}\n\n{FIRST}")


MENU = "<div class='menu'><a href='/a'>A</a></div>"
BANNER = f"<div><a href='/'><img alt='logo'></a><div>Small. Fast. Ours.</div>{MENU}</div>"


@pytest.mark.parametrize("loose", [f"<p>{FIRST}</p><p>{SECOND}</p>", f"<p>{FIRST}</p><h2>More</h2><p>{SECOND}</p>"])
def test_what_stands_in_a_box_with_menus_on_top_of_loose_paragraphs_is_left_out(loose: str):
    assert text(f"<body>{BANNER}{loose}</body>") == text(f"<body>{loose}</body>") != ""
    assert text(f"<body>{BANNER}</body>") == ""


@pytest.mark.parametrize(
    "kept",
    [
        "<div><h1>A title</h1><div class='menu'><a href='/a'>A</a></div></div>",
        "<div>Version 3, of May</div>",
        f"<div>{FIRST}<div class='menu'><a href='/a'>A</a></div></div>",
        f"<ul>{''.join(f'<li>short item {n}</li>' for n in range(20))}<li class='menu'><a href='/a'>A</a></li></ul>",
    ],
)
def test_titles_prose_and_boxes_without_menus_on_top_are_kept(kept: str):
    assert text(f"<body>{kept}<p>{FIRST}</p><p>{SECOND}</p></body>").endswith(BOTH)
    assert text(f"<body>{kept}<p>{FIRST}</p><p>{SECOND}</p></body>") != BOTH


def test_a_box_with_a_menu_behind_the_first_paragraph_is_kept():
    box = "<div>A short note.<div class='menu'><a href='/a'>A</a></div></div>"
    assert "A short note." in text(f"<body><p>{FIRST}</p>{box}<p>{SECOND}</p></body>")


def test_headings_with_nothing_behind_them_are_cut_from_the_end():
    assert text(f"<article><h2>One</h2>{ARTICLE}<h3>Related</h3><p><a href='/'>Elsewhere</a></p></article>") == (
        f"One\n\n{BOTH}"
    )


@pytest.mark.parametrize(
    ("tag", "attributes", "marks"),
    [
        ("div", {"class": "comments-area"}, AWAY),
        ("div", {"class": "MainNavigation"}, AWAY | CONTENT),
        ("div", {"id": "shareBar"}, AWAY),
        ("div", {"class": "right_bar"}, AWAY),
        ("div", {"class": "content-with-sidebar"}, CONTENT),
        ("div", {"class": "no-comments"}, 0),
        ("div", {"class": "category-comments tag-share"}, 0),
        ("div", {"class": "download header"}, 0),
        ("span", {"class": "author-name"}, ABOUT),
        ("p", {"class": "wp-caption-text"}, CAPTION | CONTENT),
        ("figcaption", {}, CAPTION),
        ("footer", {}, AWAY),
        ("article", {"class": "share-me"}, CONTENT),
        ("div", {"itemprop": "articleBody", "class": "widget"}, CONTENT),
        ("div", {"role": "navigation"}, AWAY),
        ("div", {"class": None, "id": ""}, 0),
    ],
)
def test_names_say_what_an_element_is(tag: str, attributes: dict[str, str | None], marks: int):
    assert marks_of(tag, attributes) == marks


def test_what_a_page_says_of_itself_is_read():
    html = """<html lang=de><head><title> A  title | Site</title>
    <meta property="article:published_time" content="2021-05-04T10:00:00Z"></head><body><h1>Other</h1></body></html>"""
    about = extract_page(html, "ours", PageOptions(output="text")).about
    assert about.items() == {"title": "A title | Site", "date": "2021-05-04", "language": "de"}
    bare = extract_page("<h1>Only</h1><time datetime='2020-01-02T03:04'>", "ours", PageOptions(output="text"))
    assert bare.about.items() == {"title": "Only", "date": "2020-01-02"}


def test_our_text_of_annotated_pages_is_at_least_as_right_as_published_extractors(
    shared_data: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
):
    """0.928 is what trafilatura 2.3.1 has on all of these pages (benchmarks/results/extract.md)."""
    monkeypatch.setenv("MARIN_SHARED_DATA", str(shared_data))
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    sys.modules.pop("bench_extract", None)
    import bench_extract  # type: ignore[import-not-found]

    pages = bench_extract.annotated_pages()
    extract = bench_extract.through_page("ours", PageOptions(output="text"))
    texts = {page.name: extract(page.html) for page in pages}
    untuned = [page for page in pages if not bench_extract.is_tuned_on(page.name)]
    assert bench_extract.quality(texts, pages).f1 >= 0.928
    assert bench_extract.quality(texts, untuned).f1 >= 0.928
