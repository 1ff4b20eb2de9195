"""Threads in the three forms they come in, which give the same documents."""

import json
import tracemalloc
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest

from marin.processing.extract.config import ReadingOptions, StackExchangeConfig, ThreadFormat
from marin.processing.extract.run import extract_stackexchange
from marin.processing.extract.stackexchange import ThreadOfJson, ThreadOfPage, ThreadOfPosts, read_posts
from marin.processing.pipeline import Dropped

QUESTION = "<p>How do I keep a <code>gate</code> shut?</p>"
GOOD = "<p>Hang it on a beam.</p><pre><code>beam\n  gate\n</code></pre>"
OTHER = "<p>With a rope.</p>"
TEXT = (
    "# A gate & the tide\n\nHow do I keep a `gate` shut?\n\n## Answer (score 9)\n\nHang it on a beam.\n\n"
    "```\nbeam\n  gate\n```\n\n## Accepted answer (score 2)\n\nWith a rope."
)
API = {
    "question_id": 1,
    "title": "A gate &amp; the tide",
    "body": QUESTION,
    "score": 5,
    "tags": ["gates", "tide-mills"],
    "link": "https://mills.example/questions/1",
    "answers": [
        {"answer_id": 3, "body": OTHER, "score": 2, "is_accepted": True},
        {"answer_id": 2, "body": GOOD, "score": 9, "is_accepted": False},
    ],
}
PAGE = f"""<html><body><div id="question-header"><h1>A gate &amp; the tide</h1></div>
<div class="question" data-questionid="1" data-score="5"><div class="js-post-body s-prose">{QUESTION}</div>
<a class="post-tag">gates</a><a class="post-tag">tide-mills</a><div class="comments"><p>Which gate?</p></div></div>
<div class="answer accepted-answer" data-answerid="3" data-score="2"><div class="js-post-body">{OTHER}</div></div>
<div class="answer" data-answerid="2"><div class="js-vote-count">9</div><div
class="js-post-body">{GOOD}</div></div></body></html>"""


def posts_file(path: Path) -> Path:
    rows = [
        {"Id": "2", "PostTypeId": "2", "ParentId": "1", "Score": "9", "Body": GOOD},
        {
            "Id": "1",
            "PostTypeId": "1",
            "AcceptedAnswerId": "3",
            "Score": "5",
            "Title": "A gate & the tide",
            "Body": QUESTION,
            "Tags": "<gates><tide-mills>",
            "CreationDate": "2012-03-04T05:06:07.8",
        },
        {"Id": "4", "PostTypeId": "5", "Body": "a wiki page"},
        {"Id": "5", "PostTypeId": "2", "ParentId": "99", "Score": "1", "Body": "the question is gone"},
        {"Id": "3", "PostTypeId": "2", "ParentId": "1", "Score": "2", "Body": OTHER},
    ]
    lines = [f"<row {' '.join(f'{name}={quoteattr(value)}' for name, value in row.items())} />" for row in rows]
    path.write_text('<?xml version="1.0" encoding="utf-8"?>\n<posts>\n' + "\n".join(lines) + "\n</posts>\n")
    return path


def document(made: dict[str, Any] | Dropped) -> dict[str, Any]:
    assert isinstance(made, dict)
    return made


def test_all_forms_give_the_same_document(tmp_path: Path):
    posts = [post for post in read_posts(posts_file(tmp_path / "Posts.xml")) if post["thread"] == "1"]
    made = [
        document(ThreadOfJson()(API)),
        document(ThreadOfPage()({"html": PAGE, "url": API["link"]})),
        document(ThreadOfPosts(site="https://mills.example")(("", "1"), posts)),
    ]
    assert [one["text"] for one in made] == [TEXT] * 3
    assert len({one["id"] for one in made}) == 1
    for one in made:
        metadata = json.loads(one["metadata"])
        assert metadata["url"] == API["link"] and metadata["tags"] == API["tags"]
        assert metadata["score"] == 5 and metadata["num_answers"] == 2


def test_answers_are_chosen_by_the_format():
    def text(**format: Any) -> str:
        return document(ThreadOfJson(format=ThreadFormat(**format))(API))["text"]

    assert "With a rope" not in text(min_answer_score=3) and "With a rope" not in text(max_answers=1)
    assert "score" not in text(keep_scores=False)
    assert text(output="text").startswith("A gate & the tide\n\nHow do I keep a gate shut?\n\nAnswer (score 9)\n\n")
    dropped = ThreadOfJson(format=ThreadFormat(min_answers=3))(API)
    assert dropped == Dropped("too few answers", {"num_answers": 2})


def test_the_order_of_answers_does_not_depend_on_the_order_they_came_in():
    equal = [{"answer_id": number, "body": f"<p>{number}</p>", "score": 1} for number in (10, 9, 11)]
    texts = {document(ThreadOfJson()({**API, "answers": order}))["text"] for order in (equal, equal[::-1])}
    assert len(texts) == 1
    assert [line for line in texts.pop().split("\n") if line.isdigit()] == ["9", "10", "11"]


def test_rows_that_are_no_threads_are_refused_or_dropped():
    with pytest.raises(ValueError, match="no question: body is NoneType"):
        ThreadOfJson()({"title": "x"})
    with pytest.raises(ValueError, match="no answers"):
        ThreadOfJson()({**API, "answers": "many"})
    assert ThreadOfPage()({"html": "<p>404</p>"}) == Dropped("no question on the page")


def test_a_dump_becomes_documents_with_the_lost_counted(tmp_path: Path):
    posts_file(tmp_path / "Posts.xml")
    config = StackExchangeConfig(
        input_path=str(tmp_path), output_path=str(tmp_path / "out"), form="posts", format=ThreadFormat()
    )
    from dataclasses import replace

    import pyarrow.parquet as pq

    config = replace(config, reading=replace(config.reading, num_workers=0))
    result = extract_stackexchange(config)
    rows = [row for file in result.files for row in pq.read_table(tmp_path / "out" / file).to_pylist()]
    assert [row["text"] for row in rows] == [TEXT]
    assert {rule: num for counts in result.funnel for rule, num in counts.dropped.items()} == {"no question": 1}


def test_threads_of_several_dumps_with_the_same_ids_stay_apart(tmp_path: Path):
    import pyarrow.parquet as pq

    for site in ("mills", "tides"):
        (tmp_path / "dumps" / site).mkdir(parents=True)
        file = posts_file(tmp_path / "dumps" / site / "Posts.xml")
        file.write_text(file.read_text().replace("With a rope", f"With a rope of {site}"))
    given = {"input_path": str(tmp_path / "dumps"), "form": "posts", "format": ThreadFormat()}
    config = StackExchangeConfig(output_path=str(tmp_path / "out"), reading=ReadingOptions(num_workers=0), **given)
    result = extract_stackexchange(config)
    rows = [row for file in result.files for row in pq.read_table(tmp_path / "out" / file).to_pylist()]
    assert {json.loads(row["metadata"])["dump"]: row["text"] for row in rows} == {
        site: TEXT.replace("With a rope", f"With a rope of {site}") for site in ("mills", "tides")
    }
    with pytest.raises(ValueError, match="has 2 dumps"):
        extract_stackexchange(
            StackExchangeConfig(output_path=str(tmp_path / "out2"), site="https://mills.example", **given)
        )


def test_a_dump_is_read_in_constant_memory(tmp_path: Path):
    path = tmp_path / "Posts.xml"
    with path.open("w") as file:
        file.write("<posts>\n")
        for number in range(40_000):
            file.write(f'<row Id="{number}" PostTypeId="1" Score="1" Title="t" Body="{"word " * 40}" />\n')
        file.write("</posts>")
    tracemalloc.start()
    assert sum(1 for _ in read_posts(path)) == 40_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < path.stat().st_size / 4


def test_a_dump_that_is_cut_off_is_an_error_that_names_it(tmp_path: Path):
    whole = posts_file(tmp_path / "Posts.xml").read_text()
    cut = tmp_path / "cut.xml"
    cut.write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.xml: no XML, or cut off"):
        list(read_posts(cut))
    with pytest.raises(FileNotFoundError, match="no Posts.xml at"):
        extract_stackexchange(
            StackExchangeConfig(
                input_path=str(tmp_path / "none"), output_path=str(tmp_path / "o"), form="posts", format=ThreadFormat()
            )
        )
