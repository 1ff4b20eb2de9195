"""Threads of StackExchange as documents: a question, and its answers, the highest score first.

Three forms are read: rows of JSON as the API gives them (a question with its answers), pages as the sites show them,
and the dumps' Posts.xml, in which the posts of a thread lie far apart. `read_posts` streams that file in constant
memory, one post a row; grouping them by thread is the engine's work, and `ThreadOfPosts` its reducer.

What is written says which answer was accepted and what the answers scored, because a model can learn from that what is
a good answer; `keep_scores=False` leaves it out.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

from marin.processing.extract.config import ThreadFormat
from marin.processing.extract.markdown import Style
from marin.processing.extract.methods import TRANSFORM_VERSION
from marin.processing.extract.page import html_of, valid_unicode, write_fragment
from marin.processing.extract.rows import document_row
from marin.processing.extract.tree import parse
from marin.processing.pipeline import Dropped

QUESTION, ANSWER = "1", "2"
_TAG = re.compile(r"<([^<>]+)>")
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True, kw_only=True)
class Post:
    """A question or an answer; the body is HTML."""

    id: str
    body: str
    score: int
    is_question: bool
    is_accepted: bool = False


@dataclass(frozen=True, kw_only=True)
class Thread:
    """A question with its answers."""

    title: str
    question: Post
    answers: tuple[Post, ...]
    tags: tuple[str, ...] = ()
    url: str = ""
    date: str = ""
    dump: str = ""  # which of several dumps it is from: ids of threads are those of a site


def thread_document(thread: Thread, format: ThreadFormat, source: str) -> dict[str, Any] | Dropped:
    """The thread as a document, dropped where it has too few answers or no text."""
    answers = [
        answer
        for answer in sorted(thread.answers, key=_best_first)
        if format.min_answer_score is None or answer.score >= format.min_answer_score
    ][: format.max_answers]
    if len(answers) < format.min_answers:
        return Dropped("too few answers", {"num_answers": len(answers)})
    style = Style(
        markdown=format.output == "markdown",
        keep_links=format.keep_links,
        keep_images=format.keep_images,
        url=thread.url,
    )
    title = " ".join(thread.title.split())
    question = write_fragment(thread.question.body, style)
    if not title and not question:
        return Dropped("empty question")
    mark = "#" if style.markdown else ""
    parts = [f"{mark} {title}".strip(), question]
    for answer in answers:
        parts += [f"{mark * 2} {_heading(answer, format)}".strip(), write_fragment(answer.body, style)]
    metadata = {
        "url": thread.url,
        "title": title,
        "date": thread.date,
        "question": thread.question.id,
        "score": thread.question.score,
        "num_answers": len(answers),
        "tags": list(thread.tags),
        "dump": thread.dump,
        "method": f"stackexchange {TRANSFORM_VERSION}",
    }
    return document_row(valid_unicode("\n\n".join(filter(None, parts))), source, metadata)


def _heading(answer: Post, format: ThreadFormat) -> str:
    if not format.keep_scores:
        return "Answer"
    return f"{'Accepted answer' if answer.is_accepted else 'Answer'} (score {answer.score})"


def _best_first(answer: Post) -> tuple[int, bool, int, str]:
    """Order of answers: score, then accepted, then the older, so that it never depends on the order they came in."""
    return (-answer.score, not answer.is_accepted, len(answer.id), answer.id)


@dataclass(frozen=True, kw_only=True)
class ThreadOfJson:
    """Row function: a question with its answers, as the API gives them, to a document.

    Reads `title`, `body`, `score`, `tags`, `link`, `question_id`, `creation_date`, and of each of `answers` `body`,
    `score`, `is_accepted`, `answer_id`. Raises ValueError for a row without a body.
    """

    version: ClassVar[int] = TRANSFORM_VERSION
    format: ThreadFormat = ThreadFormat()
    source: str = "stackexchange"

    def __call__(self, row: dict[str, Any]) -> dict[str, Any] | Dropped:
        if not isinstance(row.get("body"), str):
            raise ValueError(f"no question: body is {type(row.get('body')).__name__}, expected HTML")
        answers = row.get("answers") or []
        if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
            raise ValueError("no answers: expected a list of objects with body and score")
        accepted = str(row.get("accepted_answer_id") or "")
        thread = Thread(
            title=_unescaped(row.get("title") or ""),
            question=Post(id=str(row.get("question_id") or ""), body=row["body"], score=_score(row), is_question=True),
            answers=tuple(
                Post(
                    id=str(answer.get("answer_id") or index),
                    body=str(answer.get("body") or ""),
                    score=_score(answer),
                    is_question=False,
                    is_accepted=bool(answer.get("is_accepted")) or str(answer.get("answer_id") or " ") == accepted,
                )
                for index, answer in enumerate(answers)
            ),
            tags=tuple(str(tag) for tag in row.get("tags") or ()),
            url=str(row.get("link") or row.get("url") or ""),
            date=str(row.get("creation_date") or ""),
        )
        return thread_document(thread, self.format, self.source)


@dataclass(frozen=True, kw_only=True)
class ThreadOfPage:
    """Row function: a question's page, as the sites show it, to a document; dropped where there is no question on it.

    Reads `html` (text or bytes) and `url`. Raises ValueError for a row without HTML.
    """

    version: ClassVar[int] = TRANSFORM_VERSION
    format: ThreadFormat = ThreadFormat()
    source: str = "stackexchange"

    def __call__(self, row: dict[str, Any]) -> dict[str, Any] | Dropped:
        thread = thread_of_page(html_of(row), url=str(row.get("url") or ""))
        return (
            Dropped("no question on the page") if thread is None else thread_document(thread, self.format, self.source)
        )


def thread_of_page(html: str, *, url: str = "") -> Thread | None:
    """The thread on a question's page; None where there is none."""
    tree = parse(html)
    shown = tree.css_first(".question")
    if shown is None:
        return None
    question = _shown_post(shown, is_question=True)
    title = tree.css_first("#question-header h1") or tree.css_first("h1")
    asked = tree.css_first("time[itemprop=dateCreated]")
    return Thread(
        title=title.text() if title is not None else "",
        question=question,
        answers=tuple(_shown_post(answer, is_question=False) for answer in tree.css(".answer")),
        tags=tuple(dict.fromkeys(tag.text(strip=True) for tag in shown.css(".post-tag"))),
        url=url,
        date=((asked.attributes.get("datetime") or "")[:10]) if asked is not None else "",
    )


def _shown_post(node: Any, *, is_question: bool) -> Post:
    attributes = node.attributes
    body = node.css_first(".js-post-body") or node.css_first(".s-prose") or node.css_first(".post-text")
    votes = node.css_first(".js-vote-count") or node.css_first(".vote-count-post")
    score = attributes.get("data-score") or (votes.text(strip=True) if votes is not None else "")
    return Post(
        id=attributes.get("data-questionid" if is_question else "data-answerid") or attributes.get("id") or "",
        body=(body.html or "") if body is not None else "",
        score=int(score) if _NUMBER.fullmatch(score) else 0,
        is_question=is_question,
        is_accepted="accepted-answer" in (attributes.get("class") or "").split(),
    )


def read_posts(path: str | Path) -> Iterator[dict[str, Any]]:
    """The questions and answers of a dump's Posts.xml, one row a post, in the order of the file and constant memory.

    Rows: `thread` (the question's id), `id`, `is_question`, `body`, `score`, `title`, `tags`, `accepted` (of a
    question: the id of its accepted answer), `date`. Posts of other kinds (wiki pages, nominations) are passed over.
    Raises ValueError naming the file where it is no XML, or ends in the middle.
    """
    root = None
    try:
        for event, element in ElementTree.iterparse(path, events=("start", "end")):
            if root is None:
                root = element
            if event == "end" and element.tag == "row":
                if element.get("PostTypeId") in (QUESTION, ANSWER):
                    yield _post_row(element)
                root.clear()  # else all rows stay in memory
    except ElementTree.ParseError as error:
        raise ValueError(
            f"{path}: no XML, or cut off: {error}. Expected a dump's Posts.xml; download it again"
        ) from None


def _post_row(element: ElementTree.Element) -> dict[str, Any]:
    is_question = element.get("PostTypeId") == QUESTION
    post_id = element.get("Id", "")
    score = element.get("Score", "0")
    tags = element.get("Tags", "")
    return {
        "thread": post_id if is_question else element.get("ParentId", ""),
        "id": post_id,
        "is_question": is_question,
        "body": element.get("Body", ""),
        "score": int(score) if _NUMBER.fullmatch(score) else 0,
        "title": element.get("Title", ""),
        # <a><b> in older dumps, |a|b| in newer
        "tags": _TAG.findall(tags) or [tag for tag in tags.split("|") if tag],
        "accepted": element.get("AcceptedAnswerId", ""),
        "date": element.get("CreationDate", "")[:10],
    }


@dataclass(frozen=True, kw_only=True)
class ThreadOfPosts:
    """Reducer: the posts of one thread, by (dump, thread), to a document, dropped where the question is missing.

    `site` (https://physics.stackexchange.com) gives documents their address.
    """

    version: ClassVar[int] = TRANSFORM_VERSION
    format: ThreadFormat = ThreadFormat()
    source: str = "stackexchange"
    site: str = ""

    def __call__(self, key: tuple[str, str], posts: Iterable[dict[str, Any]]) -> dict[str, Any] | Dropped:
        posts = list(posts)
        asked = next((post for post in posts if post["is_question"]), None)
        if asked is None:  # the question was deleted
            return Dropped("no question", {"num_posts": len(posts)})
        answers = tuple(
            Post(
                id=post["id"],
                body=post["body"],
                score=post["score"],
                is_question=False,
                is_accepted=post["id"] == asked["accepted"],
            )
            for post in posts
            if not post["is_question"]
        )
        thread = Thread(
            title=asked["title"],
            question=Post(id=asked["id"], body=asked["body"], score=asked["score"], is_question=True),
            answers=answers,
            tags=tuple(asked["tags"]),
            url=f"{self.site}/questions/{asked['id']}" if self.site else "",
            date=asked["date"],
            dump=key[0],
        )
        return thread_document(thread, self.format, self.source)


def _score(row: dict[str, Any]) -> int:
    score = row.get("score")
    return score if isinstance(score, int) and not isinstance(score, bool) else 0


def _unescaped(text: Any) -> str:
    """A title of the API, in which characters of HTML are escaped."""
    return unescape(str(text))
