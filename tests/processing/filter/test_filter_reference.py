"""docs/reference/filters.md is what the filters say of themselves."""

from pathlib import Path

from marin.processing.filter.filters import FILTERS
from marin.processing.filter.meanings import MEANINGS
from marin.processing.filter.reference import filter_reference


def test_the_reference_page_is_current(repository: Path):
    page = (repository / "docs/reference/filters.md").read_text(encoding="utf-8")
    assert page == filter_reference(), "run `marin data filter --reference > docs/reference/filters.md`"


def test_the_page_has_every_filter_and_every_signal():
    page = filter_reference()
    assert all(f"`type: {name}`" in page for name in FILTERS)
    unseen = {name for name in MEANINGS if f"| `{name}` |" not in page}
    # of other codecs than the default, and of what is off by default
    assert unseen == {"compression.zstd", "compression.zlib", "pii.num_phone_numbers"}


def test_every_setting_of_a_filter_is_explained():
    assert not [line for line in filter_reference().splitlines() if line.endswith("|  |")]
