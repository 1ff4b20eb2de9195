"""Chains of filters as published data sets ran them, in their order, without what needs a list or a model of yours."""

import importlib

from marin.processing.filter.c4 import C4, C4Paragraphs
from marin.processing.filter.dclm import DclmLines
from marin.processing.filter.filters import FILTERS, Filter
from marin.processing.filter.fineweb import FineWebQuality
from marin.processing.filter.gopher import GopherQuality, GopherRepetition
from marin.processing.filter.pii import MaskPii

PRESETS: dict[str, tuple[Filter, ...]] = {
    # Rae et al. 2021
    "gopher": (GopherRepetition(), GopherQuality()),
    # Raffel et al. 2020, without its list of bad words
    "c4": (C4(),),
    # Xue et al. 2021
    "mc4": (C4Paragraphs(),),
    # Penedo et al. 2024, behind URL lists and language identification, before deduplication
    "fineweb": (
        GopherRepetition(),
        GopherQuality(),
        C4(terminal_punctuation=False),
        FineWebQuality(),
        MaskPii(),
    ),
    # Li et al. 2024 (arXiv:2406.11794): its RefinedWeb filters, behind URL lists and language identification
    "dclm": (GopherQuality(distinct_stop_words=False), GopherRepetition(), DclmLines()),
}


def filters_named(name: str) -> tuple[Filter, ...]:
    """The filters of a preset, or the filter of that name with its defaults. ValueError where there is none."""
    if name in PRESETS:
        return PRESETS[name]
    if name not in FILTERS:
        raise ValueError(
            f"no preset or filter {name!r}; presets are {', '.join(PRESETS)}, filters are {', '.join(FILTERS)}"
        )
    module, _, cls = FILTERS[name].partition(":")
    try:
        return (getattr(importlib.import_module(module), cls)(),)
    except (TypeError, ValueError) as error:
        raise ValueError(f"filter {name!r} has no defaults to run with: {error}") from error
