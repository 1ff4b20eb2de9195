"""What a deduplication would remove of each source, and the limit above which it is refused.

A source of which nearly all would go is more often alike in form than it is repeated: function calls over one schema,
books with one preface. So the share is looked at before anything is removed.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marin.io.atomic import write_text
from marin.processing.dedup.attributes import SourceCounts
from marin.processing.dedup.config import DedupConfig

REPORT_FILE = "report.json"


class TooMuchRemovedError(ValueError):
    """A source would lose a larger share of its documents, or of their bytes, than its limit."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found, in numbers that depend on nothing but documents and config."""

    counts: SourceCounts
    largest_clusters: list[dict[str, object]]
    details: dict[str, Any]  # what else the method counted

    def as_dict(self) -> dict[str, Any]:
        """As in report.json; sources by the share of them that goes, the largest first."""
        documents = sum(self.counts.documents.values())
        removed = sum(self.counts.removed.values())
        sources = sorted(self.counts.documents, key=lambda source: (-self.share(source), source))
        return {
            "documents": documents,
            "removed": removed,
            "kept": documents - removed,
            "sources": {
                source: {
                    "documents": self.counts.documents[source],
                    "removed": self.counts.removed.get(source, 0),
                    "share_removed": round(self.share(source), 6),
                    "spans": self.counts.spans.get(source, 0),
                    "span_bytes": self.counts.span_bytes.get(source, 0),
                    **self._bytes(source),
                }
                for source in sources
            },
            "largest_clusters": self.largest_clusters,
            "details": self.details,
        }

    def _bytes(self, source: str) -> dict[str, int]:
        if source not in self.counts.text_bytes:
            return {}
        return {
            "text_bytes": self.counts.text_bytes[source],
            "removed_bytes": self.counts.removed_bytes.get(source, 0),
        }

    def share(self, source: str) -> float:
        """What of the source goes, as a share of its documents, or of its bytes, if that is more and they were counted.

        A method that cuts passages can leave every document, and of each next to nothing.
        """
        of_documents = self.counts.removed.get(source, 0) / self.counts.documents[source]
        num_bytes = self.counts.text_bytes.get(source, 0)
        return max(of_documents, self.counts.removed_bytes.get(source, 0) / num_bytes if num_bytes else 0.0)

    def write(self, folder: Path) -> None:
        """Write report.json."""
        write_text(folder / REPORT_FILE, json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n")

    def check_limits(self, config: DedupConfig) -> None:
        """Raise TooMuchRemovedError where a source loses more than it may."""
        too_much = []
        for source, documents in sorted(self.counts.documents.items()):
            limit = config.max_removed_of.get(source, config.max_removed_per_source)
            if documents >= config.min_documents_for_limit and self.share(source) > limit:
                too_much.append((source, limit))
        if not too_much:
            return
        lines = []
        for source, limit in too_much:
            removed, documents = self.counts.removed.get(source, 0), self.counts.documents[source]
            num_bytes = self.counts.text_bytes.get(source)
            of_bytes = "" if num_bytes is None else f" and {self.counts.removed_bytes[source]:,} of {num_bytes:,} bytes"
            lines.append(
                f"source {source!r} would keep {documents - removed:,} of {documents:,} documents: "
                f"{removed:,}{of_bytes} removed, {self.share(source):.1%}, and the limit is {limit:.1%}"
            )
        clusters = [cluster for cluster in self.largest_clusters if cluster["source"] in {s for s, _ in too_much}]
        shown = "".join(f" The largest cluster has {c['documents']:,}, for {c['id']}." for c in clusters[:1])
        raise TooMuchRemovedError(
            "\n".join(lines)
            + f"\nNothing was removed.{shown} Look at what would go: {config.output_path}/attributes has for each "
            "document the one that it goes for. If they are duplicates, allow it with "
            f"max_removed_of={{{too_much[0][0]!r}: {min(1.0, self.share(too_much[0][0]) + 0.005):.2f}}} (--allow "
            "SOURCE=SHARE). If they are not, ask for more likeness (verify='jaccard', a higher min_similarity, longer "
            "n-grams; --verify jaccard, --min-similarity, --ngram), or leave the source out."
        )
