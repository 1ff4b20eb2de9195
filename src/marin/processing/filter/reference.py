"""The page docs/reference/filters.md, made from the filters themselves."""

import importlib

from marin.config.reference import config_section
from marin.processing.filter.filters import FILTERS, Filter, name_of
from marin.processing.filter.meanings import MEANINGS
from marin.processing.filter.presets import PRESETS
from marin.processing.pipeline import parse

_INTRODUCTION = """
# Filters

This page is what `marin data filter --reference` prints: `marin data filter --reference > docs/reference/filters.md`.

A filter measures signals, which are columns, and has rules, which are expressions over them. A document stays if every
rule holds; one that goes is counted for the first rule that does not. Some filters edit texts as well. Each class
below is a config for `FilterConfig.filters`, where every threshold can be another one, and None turns most rules off.
[How to add a filter](../how-to/add-a-filter.md).

What a word is decides more than any threshold. With `words: whitespace`, the default, it is what stands between
whitespace, as in Gopher, dolma and DCLM; with `words: unicode` punctuation is parted from words, which is nearer to
FineWeb. Lengths are in characters (code points) unless they say bytes. Ratios of nothing to nothing are 0.
"""

# What rules there are depends on which lists are given: here all of them.
_WITH_LISTS = {
    "url_lists": {
        **{kind: f"{kind}.txt" for kind in ("domains", "urls", "words", "soft_words", "substrings")},
        "missing_url": "drop",
    },
    "bad_words": {"path": "words.txt", "keep_fraction": 0.1},
}


def filter_reference() -> str:
    """Markdown: presets, then every filter with its settings, rules and signals."""
    presets = "\n".join(f"| `{name}` | {_chain(filters)} |" for name, filters in PRESETS.items())
    parts = [_INTRODUCTION.strip(), "## Presets\n\n| preset | filters, in order |\n|---|---|\n" + presets]
    parts += [_section(name) for name in FILTERS]
    return "\n\n".join(parts) + "\n"


def _chain(filters: tuple[Filter, ...]) -> str:
    """The filters with what differs from their defaults."""
    words = []
    for each in filters:
        name, default = name_of(each), type(each)()
        changed = [
            f"{field}={getattr(each, field)!r}"
            for field in type(each).__dataclass_fields__  # type: ignore[attr-defined]
            if getattr(each, field) != getattr(default, field)
        ]
        words.append(f"[{name}](#{type(each).__name__.lower()})" + (f" with `{', '.join(changed)}`" if changed else ""))
    return ", ".join(words)


def filters_that_measure(signal: str) -> list[str]:
    """The names of our filters that measure a signal, those of one's own not among them."""
    if signal not in MEANINGS:
        return []
    return [name for name in FILTERS if signal in _signals(name, _example(name))]


def _example(name: str) -> Filter:
    module, _, cls = FILTERS[name].partition(":")
    return getattr(importlib.import_module(module), cls)(**_WITH_LISTS.get(name, {}))


def _section(name: str) -> str:
    given = _example(name)
    parts = [config_section(type(given))]
    if given.rules():
        rows = [(rule.name, rule.keep, rule.description, rule.source) for rule in given.rules()]
        lines = [f"| `{rule}` | `{keep}` | {why} | {source} |" for rule, keep, why, source in rows]
        parts.append("| counted as | a document stays if | what is wrong otherwise | source |\n|---|---|---|---|")
        parts[-1] += "".join(f"\n{line}" for line in lines)
    lines = [f"| `{signal}` | {MEANINGS[signal]} |" for signal in _signals(name, given)]
    parts.append("| signal | meaning |\n|---|---|\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _signals(name: str, given: Filter) -> tuple[str, ...]:
    if name in _WITH_LISTS or not given.operations():  # lists are read where operations are made
        return tuple(dict.fromkeys(column for rule in given.rules() for column in parse(rule.keep).columns()))
    return tuple(column for operation in given.operations() for column in operation.adds())
