"""Chains of filters as published data sets ran them, in their order, without what needs a list or a model of yours."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from marin.config import decode, encode
from marin.processing.filter.c4 import C4, C4Paragraphs
from marin.processing.filter.dclm import DclmLines
from marin.processing.filter.filters import FILTERS, Filter, name_of
from marin.processing.filter.fineweb import FineWebQuality
from marin.processing.filter.gopher import GopherQuality, GopherRepetition
from marin.processing.filter.pii import MaskPii

# Name of a filter -> its fields that shall have another value than in the preset, or than by default.
Settings: TypeAlias = Mapping[str, Mapping[str, Any]]
EMPTY: Settings = MappingProxyType({})

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
    # Li et al. 2024 (arXiv:2406.11794): its RefinedWeb filters, behind URL lists and language identification; it takes
    # addresses out of the texts besides
    "dclm": (GopherQuality(distinct_stop_words=False), GopherRepetition(), DclmLines()),
}


def filters_named(name: str, settings: Settings = EMPTY) -> tuple[Filter, ...]:
    """The filters of a preset, or the filter of that name (or `module:Class`), with what `settings` change in it.

    ValueError where there is none, or a setting is not one of its fields.
    """
    if name not in PRESETS and name not in FILTERS and ":" not in name:
        raise ValueError(
            f"no preset or filter {name!r}; presets are {', '.join(PRESETS)}, filters are {', '.join(FILTERS)}, and "
            "one of your own is named module:Class"
        )
    if name not in PRESETS:
        return (decode(Filter, {"type": name, **settings.get(name, {})}, name),)
    chain = [(name_of(each), encode(each)) for each in PRESETS[name]]
    return tuple(decode(Filter, {**fields, **settings.get(of, {})}, of) for of, fields in chain)
