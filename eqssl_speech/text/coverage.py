"""What a vocabulary makes of the text of each source: how much it can write, and what it cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

from eqssl_speech.data.audio import AudioError, probe_audio
from eqssl_speech.text.tokenizer import CtcTokenizer
from eqssl_speech.text.transcripts import Transcripts

LEFT_COLUMNS: Final = ("source", "language", "split", "characters seen once", "which")
"""The columns of :func:`list_training_rows` and :func:`list_other_rows` that hold words."""

_MAX_CHARACTERS: Final = 20


@final
@dataclass(frozen=True, kw_only=True)
class SplitCoverage:
    """What a vocabulary makes of the text of one split of one source."""

    source: str
    """The name of the source."""

    language: str
    """Its language."""

    split: str
    """The name of the split."""

    num_utterances: int
    """The number of utterances that have text."""

    num_empty: int
    """The number of utterances of whose text nothing is left."""

    refusals: tuple[str, ...]
    """The utterances whose text is refused: the line of the manifest and the reason."""

    num_labels: int
    """The number of labels."""

    duration_s: float | None
    """The length of the utterances that have text, in seconds; ``None`` if no recording is there to tell its rate."""

    counts: Mapping[str, int]
    """How often each character occurs, the commonest first; spaces do not count."""

    unknown: Mapping[str, int]
    """Those of :attr:`counts` that the vocabulary lacks."""

    num_unknown_utterances: int
    """The number of utterances that hold such a character."""

    @property
    def labels_per_s(self) -> float | None:
        """The labels of a second of speech."""
        return self.num_labels / self.duration_s if self.duration_s else None

    @property
    def seen_once(self) -> str:
        """The characters that occur only once, of which nothing can be learned."""
        return "".join(char for char, count in self.counts.items() if count == 1)

    @property
    def unknown_share(self) -> float:
        """The share of characters that the vocabulary lacks. *Range:* [0, 1]."""
        return sum(self.unknown.values()) / max(1, sum(self.counts.values()))

    @property
    def unknown_utterance_share(self) -> float:
        """The share of utterances that hold such a character. *Range:* [0, 1]."""
        return self.num_unknown_utterances / max(1, self.num_utterances)


def measure_coverage(tokenizer: CtcTokenizer, transcripts: Transcripts) -> SplitCoverage:
    """Look at the text of a split with the eyes of a tokenizer.

    :param tokenizer: The tokenizer.
    :param transcripts: The text.
    :returns: What was found.
    """
    alphabet = tokenizer.alphabet
    texts = [transcripts.texts[index] for index in transcripts.usable]

    counter = Counter(char for text in texts for char in text)
    del counter[" "]
    counts = dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))

    manifest = transcripts.manifest

    return SplitCoverage(
        source=transcripts.source.name,
        language=transcripts.source.language,
        split=transcripts.split,
        num_utterances=len(texts),
        num_empty=len(transcripts.empty),
        refusals=tuple(
            f"{manifest.describe_line(index)}: the text {reason}"
            for index, reason in transcripts.refusals.items()
        ),
        num_labels=sum(len(tokenizer.encode(text)) for text in texts),
        duration_s=_measure_duration_s(transcripts),
        counts=counts,
        unknown={char: count for char, count in counts.items() if char not in alphabet},
        num_unknown_utterances=sum(
            not alphabet.issuperset(text.replace(" ", "")) for text in texts
        ),
    )


def _measure_duration_s(transcripts: Transcripts) -> float | None:
    manifest = transcripts.manifest

    # One rate for all, as reading every header would take long; `eqssl check` does so.
    try:
        sample_rate = probe_audio(manifest.locate(manifest.entries[0])).sample_rate
    except AudioError:
        return None

    return sum(manifest.entries[i].num_samples for i in transcripts.usable) / sample_rate


def list_training_rows(coverages: Sequence[SplitCoverage]) -> list[list[str]]:
    """Return the rows of a table of training text, the titles first."""
    titles = ["source", "language", "utterances", "refused", "empty", "labels", "labels/s"]
    rows = [[*titles, "characters", "covered", "characters seen once"]]

    for c in coverages:
        rows.append(
            [
                c.source,
                c.language,
                str(c.num_utterances),
                str(len(c.refusals)),
                str(c.num_empty),
                str(c.num_labels),
                "-" if c.labels_per_s is None else f"{c.labels_per_s:.1f}",
                str(len(c.counts)),
                f"{1 - c.unknown_share:.2%}",
                list_characters(c.seen_once),
            ]
        )

    return rows


def list_other_rows(coverages: Sequence[SplitCoverage]) -> list[list[str]]:
    """Return the rows of a table of text that the vocabulary was not made of, the titles first."""
    titles = ["source", "split", "utterances", "refused", "empty"]
    rows = [[*titles, "unknown characters", "in utterances", "which"]]

    for c in coverages:
        rows.append(
            [
                c.source,
                c.split,
                str(c.num_utterances),
                str(len(c.refusals)),
                str(c.num_empty),
                f"{c.unknown_share:.2%}",
                f"{c.unknown_utterance_share:.1%}",
                list_characters("".join(c.unknown)),
            ]
        )

    return rows


def list_characters(characters: str) -> str:
    """Return characters with spaces between them, as many as can be read at a glance."""
    shown = " ".join(characters[:_MAX_CHARACTERS])
    num_more = len(characters) - _MAX_CHARACTERS

    return f"{shown} and {num_more} more" if num_more > 0 else shown
