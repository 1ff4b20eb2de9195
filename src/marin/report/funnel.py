"""How many documents a pipeline began with, which rule took how many, and how many are left: by stage, adding up.

The numbers are those that the stages wrote beside their outputs (_funnel.json, and tokenize.json of a token store), so
a stage that was killed and gone on with counts nothing twice. What one stage wrote must be what the next one read, in
documents and bytes; where it is not, somebody's numbers are of other documents, and there is no report.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from marin.io.atomic import write_text
from marin.io.files import is_file, read_bytes
from marin.report.config import FunnelConfig
from marin.report.tables import size, table

FORMAT_VERSION = 1
_SHOWN_CHARACTERS = 80
_EXPECTED = "name the output folder of a stage that writes documents, or of a token store"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What one rule took."""

    name: str
    documents: int
    samples: tuple[Mapping[str, Any], ...] = ()  # {"id", "source", "text", "numbers"} of the first


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: documents_in + expanded = documents_out + those of all rules + bad + merged."""

    name: str
    documents_in: int
    documents_out: int
    text_bytes_in: int  # UTF-8
    text_bytes_out: int
    rules: tuple[Rule, ...] = ()
    bad: Mapping[str, int] = field(default_factory=dict)  # kind -> rows that were no documents
    expanded: int = 0  # documents made of others, beyond one each
    merged: int = 0  # documents that went into others
    tokens_out: int | None = None
    are_tokens_counted: bool = False  # or estimated, by bytes a token


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """A pipeline, from what came in to what is left."""

    stages: tuple[Stage, ...]
    bytes_per_token: float | None  # of the token store; None: there is none, and no number of tokens is told

    def to_json(self) -> dict[str, Any]:
        return {"format_version": FORMAT_VERSION, **asdict(self)}


def read_funnel(stages: Mapping[str, str]) -> Funnel:
    """The funnel of the outputs of stages, by name, in order; the last one may be a token store.

    Raises FileNotFoundError where a folder has no counts, ValueError where two stages do not fit together.
    """
    if not stages:
        raise ValueError("no stages: name the outputs of a pipeline's stages, in order")
    found = [_read_stage(name, path.rstrip("/")) for name, path in stages.items()]
    for former, later in zip(found, found[1:], strict=False):
        out = (former.documents_out, former.text_bytes_out)
        into = (later.documents_in, later.text_bytes_in)
        if out != into:
            raise ValueError(
                f"stage {later.name!r} read {into[0]:,} documents of {into[1]:,} bytes, and {former.name!r} before it "
                f"wrote {out[0]:,} of {out[1]:,}: they are not one behind the other. Name all stages that documents "
                "pass through, in order."
            )
    last = found[-1]
    if not last.are_tokens_counted or not last.tokens_out:
        return Funnel(stages=tuple(found), bytes_per_token=None)
    ratio = last.text_bytes_out / last.tokens_out
    return Funnel(stages=tuple(_with_estimate(one, ratio) for one in found), bytes_per_token=ratio)


def write_funnel(config: FunnelConfig) -> Funnel:
    """Write funnel.json, funnel.md and funnel.html to the output folder; returns the funnel."""
    from marin.report.plots import funnel_bars
    from marin.report.render import page

    funnel = read_funnel(config.stages)
    folder = Path(config.output_path)
    folder.mkdir(parents=True, exist_ok=True)
    picture = funnel_bars([(one.name, one.documents_out) for one in funnel.stages], first=funnel.stages[0].documents_in)
    text = f"# {config.title}\n\n![funnel.svg](funnel.svg)\n\n{funnel_text(funnel)}\n"
    write_text(folder / "funnel.json", json.dumps(funnel.to_json(), ensure_ascii=False, indent=1) + "\n")
    write_text(folder / "funnel.svg", picture)
    write_text(folder / "funnel.md", text)
    write_text(folder / "funnel.html", page(config.title, text, {"funnel.svg": picture}))
    return funnel


def funnel_text(funnel: Funnel, *, num_samples: int = 3) -> str:
    """The funnel as Markdown: a line a stage, then what each rule took with samples."""
    parts = [table(_HEAD, [_line(one) for one in funnel.stages])]
    if funnel.bytes_per_token is not None:
        parts.append(
            f"Tokens are counted in the token store; those of other stages (≈) are their bytes by its "
            f"{funnel.bytes_per_token:.2f} bytes a token."
        )
    else:
        parts.append("Tokens are not told: there is no token store among the stages.")
    parts += [_stage_text(one, num_samples) for one in funnel.stages if one.rules or one.bad]
    return "\n\n".join(parts)


_HEAD = ("stage", "documents in", "dropped", "bad", "documents out", "of those in", "text out", "tokens out")


def _line(one: Stage) -> tuple[str, ...]:
    share = f"{one.documents_out / one.documents_in:.1%}" if one.documents_in else "-"
    tokens = "-" if one.tokens_out is None else f"{'' if one.are_tokens_counted else '≈'}{one.tokens_out:,}"
    dropped = sum(rule.documents for rule in one.rules)
    return (
        *(one.name, f"{one.documents_in:,}", f"{dropped:,}", f"{sum(one.bad.values()):,}"),
        *(f"{one.documents_out:,}", share, size(one.text_bytes_out), tokens),
    )


def _stage_text(one: Stage, num_samples: int) -> str:
    rows = [(f"`{rule.name}`", f"{rule.documents:,}", _share(rule.documents, one.documents_in)) for rule in one.rules]
    rows += [(f"bad: `{kind}`", f"{n:,}", _share(n, one.documents_in)) for kind, n in one.bad.items()]
    parts = [f"## {one.name}", table(("rule", "documents", "of those in"), rows)]
    for rule in one.rules:
        if rule.samples and num_samples:
            lines = [_sample_line(sample) for sample in rule.samples[:num_samples]]
            parts.append("\n".join([f"Dropped by `{rule.name}`:", "", *lines]))
    return "\n\n".join(parts)


def _sample_line(sample: Mapping[str, Any]) -> str:
    looked_at = {name: value for name, value in sample.get("numbers", {}).items() if not isinstance(value, str)}
    numbers = ", ".join(f"`{name}` {_short(value)}" for name, value in looked_at.items())
    begins = " ".join(str(sample.get("text", "")).split())[:_SHOWN_CHARACTERS].replace("`", "'")
    return f"- `{sample['id']}`{f' ({numbers})' if numbers else ''}: `{begins}`"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "-"


def _read_stage(name: str, path: str) -> Stage:
    if is_file(f"{path}/tokenize.json"):
        return _token_store(name, path)
    file = f"{path}/_funnel.json"
    if not is_file(file):
        inside = f"{path}/documents"  # of a deduplication or decontamination
        meant = f"did you mean {inside}?" if is_file(f"{inside}/_funnel.json") else _EXPECTED
        raise FileNotFoundError(f"stage {name!r}: {path} has no _funnel.json and no tokenize.json; {meant}")
    given = json.loads(read_bytes(file))
    operations = [one for section in given["sections"] for one in section["operations"]]
    counters = given["counters"]
    reads = [section["operations"][0] for section in given["sections"] if section["operations"][0]["name"] == "read"]
    rules: dict[str, Rule] = {}
    bad: dict[str, int] = {}
    for one in operations:
        for rule, count in one["dropped"].items():
            before = rules.get(rule, Rule(name=rule, documents=0))
            samples = (*before.samples, *one["samples"].get(rule, ()))
            rules[rule] = Rule(name=rule, documents=before.documents + count, samples=samples)
        for kind, count in one["bad"].items():
            bad[kind] = bad.get(kind, 0) + count
    return Stage(
        name=name,
        documents_in=counters["rows_in"],
        documents_out=counters["rows_out"],
        text_bytes_in=sum(one["text_bytes_in"] for one in reads),
        text_bytes_out=counters["text_bytes_out"],
        rules=tuple(rules.values()),
        bad=bad,
        expanded=counters["expanded"],
        merged=counters["merged"],
    )


def _token_store(name: str, path: str) -> Stage:
    counts = json.loads(read_bytes(f"{path}/tokenize.json"))["counts"]
    empty = (Rule(name="no text", documents=counts["empty"]),) if counts["empty"] else ()
    return Stage(
        name=name,
        documents_in=counts["rows"],
        documents_out=counts["documents"],
        text_bytes_in=counts["text_bytes"],
        text_bytes_out=counts["text_bytes"],
        rules=empty,
        bad=counts["bad_by_kind"],
        tokens_out=counts["tokens"],
        are_tokens_counted=True,
    )


def _with_estimate(one: Stage, bytes_per_token: float) -> Stage:
    if one.tokens_out is not None:
        return one
    return Stage(**{**one.__dict__, "tokens_out": round(one.text_bytes_out / bytes_per_token)})


def stage_names(paths: Sequence[str]) -> dict[str, str]:
    """Names for stages that are given by path alone: the last name of each that tells it from the others.

    Of `exact/documents` it is `exact`: every deduplication calls a part of its output so.
    """
    named: dict[str, str] = {}
    for path in paths:
        parts = path.rstrip("/").split("/")
        if len(parts) > 1 and parts[-1] == "documents":
            parts.pop()
        name = next(("/".join(parts[-n:]) for n in range(1, len(parts) + 1) if "/".join(parts[-n:]) not in named), path)
        named[name] = path
    return named
