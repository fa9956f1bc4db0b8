"""How good labels are: how many are used and how evenly, how long they last, and what they tell of phones.

The measures of phones are those of the HuBERT paper (arXiv 2106.07447), of the joint distribution of phone y and label
z over frames: phone purity, the share of frames whose phone is the likeliest of their label; cluster purity, the share
of frames whose label is the likeliest of their phone; and PNMI, the share of the phones' entropy that labels tell,
I(y; z) / H(y). The first and the last grow with the number of labels, the second shrinks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import numpy.typing as npt

from eqssl_speech.labels.settings import FEATURE_WINDOW, FeatureStamp

Counts = npt.NDArray[np.int64]


@final
@dataclass(frozen=True)
class PhoneMeasures:
    """What labels tell of phones."""

    num_phones: int
    """The phones that occur."""

    num_labels: int
    """The labels that lie in a phone."""

    phone_purity: float

    cluster_purity: float

    pnmi: float


@final
@dataclass(frozen=True)
class LabelMeasures:
    """How good some labels are."""

    num_utterances: int
    """Those that have labels."""

    num_labels: int

    hours: float
    """Of the labels."""

    num_codes: int
    """How many different labels there could be."""

    num_used: int
    """How many there are."""

    entropy_bits: float

    perplexity: float
    """Two to the power of the entropy: as many labels used alike would have it."""

    top_share: float
    """The share of the commonest label: what who always guesses it gets right."""

    mean_run_ms: float
    """How long a label lasts."""

    distance: float
    """The mean squared distance of a frame to its centroid."""

    phones: PhoneMeasures | None = None
    """``None`` where no phones are known."""


@dataclass
class LabelTally:
    """Counts labels; tallies can be added."""

    num_codes: int

    features: FeatureStamp

    num_utterances: int = 0

    num_runs: int = 0

    distance: float = 0.0
    """The squared distances, added up."""

    counts: Counts = field(init=False)
    """Of each label. *Shape:* ``(C,)``."""

    phones: dict[tuple[str, str], Counts] = field(default_factory=dict)
    """Of each label in each phone; a phone is told by its language and its name. *Shape:* ``(C,)`` each."""

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.num_codes, np.int64)

    def count(self, labels: npt.NDArray[np.int64]) -> None:
        """Count the labels of an utterance; one without any counts nothing.

        :param labels: *Shape:* ``(T,)``.
        """
        if len(labels) == 0:
            return

        self.num_utterances += 1
        self.num_runs += 1 + int(np.count_nonzero(np.diff(labels)))
        self.counts += np.bincount(labels, minlength=self.num_codes)

    def count_phones(
        self,
        labels: npt.NDArray[np.int64],
        language: str,
        phones: Sequence[tuple[float, float, str]],
    ) -> None:
        """Count which phone lies at the middle of each label's frame: the earlier one, where two overlap.

        :param labels: *Shape:* ``(T,)``.
        :param language: Of the phones.
        :param phones: Start, end (in seconds) and name of each, in any order.
        """
        centres = np.arange(len(labels)) * self.features.hop + FEATURE_WINDOW / 2
        centres_s = centres / self.features.sample_rate

        counted = 0

        for start_s, end_s, name in sorted(phones):
            first, last = np.searchsorted(centres_s, [start_s, end_s])
            first = max(first, counted)
            if first >= last:
                continue

            counted = last

            counts = self.phones.setdefault((language, name), np.zeros(self.num_codes, np.int64))
            counts += np.bincount(labels[first:last], minlength=self.num_codes)

    def add(self, other: LabelTally) -> None:
        """Count what another tally has counted."""
        self.num_utterances += other.num_utterances
        self.num_runs += other.num_runs
        self.distance += other.distance
        self.counts += other.counts

        for phone, counts in other.phones.items():
            self.phones[phone] = self.phones.get(phone, 0) + counts

    def measure(self, num_codes: int | None = None) -> LabelMeasures:
        """Return the measures.

        :param num_codes: How many different labels there could be, if that is fewer than were told.
        """
        total = int(self.counts.sum())
        entropy = _entropy(self.counts)

        # Nothing was counted where no recording can be read.
        return LabelMeasures(
            num_utterances=self.num_utterances,
            num_labels=total,
            hours=total / self.features.frame_rate / 3600,
            num_codes=self.num_codes if num_codes is None else num_codes,
            num_used=int(np.count_nonzero(self.counts)),
            entropy_bits=entropy,
            perplexity=2.0**entropy,
            top_share=int(self.counts.max()) / max(1, total),
            mean_run_ms=1000.0 * total / max(1, self.num_runs) / self.features.frame_rate,
            distance=self.distance / max(1, total),
            phones=measure_phones(list(self.phones.values())),
        )


def measure_phones(counts: Sequence[Counts]) -> PhoneMeasures | None:
    """Measure what labels tell of phones.

    :param counts: How often each label lies in each phone. *Shape:* ``(C,)`` for each phone.
    :returns: The measures, or ``None`` if no label lies in a phone.
    """
    if not counts:
        return None

    # (P, C)
    joint = np.stack(counts)
    total = int(joint.sum())

    if total == 0:
        return None

    phone_entropy = _entropy(joint.sum(1))
    shared = phone_entropy + _entropy(joint.sum(0)) - _entropy(joint.reshape(-1))

    return PhoneMeasures(
        num_phones=len(joint),
        num_labels=total,
        phone_purity=float(joint.max(0).sum() / total),
        cluster_purity=float(joint.max(1).sum() / total),
        # One phone tells nothing, and nothing can tell it.
        pnmi=float(shared / phone_entropy) if phone_entropy > 0.0 else 0.0,
    )


def _entropy(counts: Counts) -> float:
    """Return the entropy in bits."""
    used = counts[counts > 0]
    shares = used / max(1, used.sum())

    return float(max(0.0, -(shares * np.log2(shares)).sum()))
