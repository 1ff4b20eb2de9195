"""Pages written for these tests give the text and Markdown that stand beside them in tests/golden/extract.

A change that alters them on purpose writes them anew: `python tests/processing/extract/test_extraction_golden.py`. The
difference is then there to be read.
"""

from pathlib import Path

import pytest

from marin.processing.extract.config import PageOptions
from marin.processing.extract.page import extract_page

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "extract"
PAGES = sorted(GOLDEN.glob("*.html"))
# not .md: formatters format the code in it
OUTPUTS = {"markdown": ".markdown", "text": ".txt"}


def extracted(page: Path, output: str) -> str:
    return extract_page(page.read_bytes(), "ours", PageOptions(output=output)).text + "\n"


def test_there_are_pages():
    assert len(PAGES) >= 3


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_gives_what_it_gave(page: Path, output: str):
    assert extracted(page, output) == page.with_suffix(OUTPUTS[output]).read_text(encoding="utf-8")


if __name__ == "__main__":
    for golden_page in PAGES:
        for golden_output, suffix in OUTPUTS.items():
            golden_page.with_suffix(suffix).write_text(extracted(golden_page, golden_output), encoding="utf-8")
