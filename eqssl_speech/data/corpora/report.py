"""What the preparation of a corpus did: minutes per source, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from eqssl_speech.data.corpora.splits import SPLITS

#: Called with what is being done, how much of it is done, and how much there is in all.
ProgressCallback = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BadRecording:
    """A recording that was left out because it cannot be used."""

    file: Path
    """The file."""

    reason: str
    """What it is counted under."""

    message: str
    """One sentence."""


@dataclass
class SourceSummary:
    """One prepared source."""

    name: str
    """Its name."""

    language: str
    """Its language; ``und`` where it is not known."""

    domain: str
    """Its domain; ``unknown`` where it is not known."""

    licence: str
    """The licence of its recordings; ``unknown`` where it is not known."""

    has_text: bool = False
    """Whether ``.wrd`` files stand beside its manifests."""

    num_utterances: dict[str, int] = field(default_factory=dict)
    """Utterances by split."""

    duration_s: dict[str, float] = field(default_factory=dict)
    """Seconds of audio by split."""

    left_out: Counter[str] = field(default_factory=Counter)
    """Recordings left out, by reason."""

    num_without_text: int = 0
    """Recordings that are kept without text, in a source that has text for others."""

    bad: list[BadRecording] = field(default_factory=list)
    """The recordings that cannot be read, named."""

    @property
    def total_duration_s(self) -> float:
        """Seconds of audio in all splits."""
        return sum(self.duration_s.values())


@dataclass
class PrepareReport:
    """What was prepared."""

    directory: Path
    """The corpus."""

    sources: list[SourceSummary] = field(default_factory=list)
    """The sources that the corpus has."""

    left_out_sources: dict[str, str] = field(default_factory=dict)
    """Sources that the corpus does not have: why, in a sentence, by name."""

    def minutes_by_language(self, *, with_text: bool) -> dict[str, float]:
        """Minutes of audio by language, longest first.

        :param with_text: count only sources that have text.
        """
        total: Counter[str] = Counter()
        for source in self.sources:
            if source.has_text or not with_text:
                total[source.language] += source.total_duration_s / 60  # type: ignore[assignment]
        return dict(total.most_common())

    def table(self) -> list[list[str]]:
        """Rows for a table, the header first; the last row is the sum."""
        rows = [["source", "language", "domain", "text", *(f"{s} min" for s in SPLITS), "min"]]
        rows[0] += ["utterances", "left out"]
        for s in self.sources:
            minutes = [f"{s.duration_s.get(split, 0.0) / 60:.1f}" for split in SPLITS]
            why = ", ".join(f"{n} {reason}" for reason, n in sorted(s.left_out.items())) or "0"
            row = [s.name, s.language, s.domain, "yes" if s.has_text else "no", *minutes]
            total = f"{s.total_duration_s / 60:.1f}"
            rows.append([*row, total, str(sum(s.num_utterances.values())), why])
        return [*rows, self._sum_row()]

    def _sum_row(self) -> list[str]:
        splits = [sum(s.duration_s.get(split, 0.0) for s in self.sources) for split in SPLITS]
        utterances = sum(sum(s.num_utterances.values()) for s in self.sources)
        left_out = sum(sum(s.left_out.values()) for s in self.sources)
        minutes = [f"{seconds / 60:.1f}" for seconds in (*splits, sum(splits))]
        return ["all", "", "", "", *minutes, str(utterances), str(left_out)]
