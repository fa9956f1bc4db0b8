"""What is measured of each source, how it is gathered from the ranks, and how it is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from fairseq2.metrics.formatters import format_as_float, format_as_int
from fairseq2.metrics.recorders import MetricDescriptor
from torch import Tensor
from torcheval.metrics import Metric
from typing_extensions import Self, override

from eqssl_speech.decoding.error_rates import ErrorCounts, sum_counts
from eqssl_speech.tasks.finetune.config import SCORE_METRIC


@dataclass(frozen=True)
class UtteranceResult:
    """What a validation finds out about one utterance."""

    index: int
    loss: float
    """The CTC loss in nats; infinite where the labels do not fit the frames, not a number where the model's output is
    none."""

    num_labels: int
    num_frames: int
    num_blank_frames: int
    num_hypothesis_labels: int
    words: ErrorCounts
    chars: ErrorCounts

    def to_tensor(self) -> Tensor:
        """Return all of it as numbers, exact in float64. *Shape:* ``(14,)``."""
        fixed = [
            self.index,
            self.loss,
            self.num_labels,
            self.num_frames,
            self.num_blank_frames,
            self.num_hypothesis_labels,
        ]

        counts = [
            n
            for c in (self.words, self.chars)
            for n in (c.substitutions, c.deletions, c.insertions, c.hits)
        ]

        return torch.tensor([*fixed, *counts], dtype=torch.float64)

    @staticmethod
    def from_tensor(row: Tensor) -> UtteranceResult:
        """Read what :meth:`to_tensor` made."""
        index, loss, *rest = row.tolist()
        numbers = [int(n) for n in rest]

        return UtteranceResult(
            index=int(index),
            loss=loss,
            num_labels=numbers[0],
            num_frames=numbers[1],
            num_blank_frames=numbers[2],
            num_hypothesis_labels=numbers[3],
            words=ErrorCounts(*numbers[4:8]),
            chars=ErrorCounts(*numbers[8:12]),
        )


@final
class UtteranceTable(Metric[list[UtteranceResult]]):
    """The results of all utterances of a source, from all ranks, in the order of their indices.

    Everything is computed of the whole table at the end, so that the numbers do not depend on which rank had which
    utterance.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__(device=device)

        self._add_state("rows", [])

        self.rows: list[Tensor]

    @override
    @torch.inference_mode()
    def update(self, result: UtteranceResult) -> Self:
        self.rows.append(result.to_tensor().to(self.device))

        return self

    @override
    @torch.inference_mode()
    def compute(self) -> list[UtteranceResult]:
        # A recording that stood in for another may be there twice.
        results = {r.index: r for r in map(UtteranceResult.from_tensor, self.rows)}

        return [results[index] for index in sorted(results)]

    @override
    @torch.inference_mode()
    def merge_state(self, metrics: Iterable[Self]) -> Self:
        for metric in metrics:
            self.rows += [row.to(self.device) for row in metric.rows]

        return self


@final
class Examples(Metric[dict[int, str]]):
    """What the model makes of a few utterances: index and text."""

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__(device=device)

        self._add_state("texts", [])

        self.texts: list[Tensor]

    @override
    @torch.inference_mode()
    def update(self, index: int, text: str) -> Self:
        values = [index, *text.encode("utf-8")]

        self.texts.append(torch.tensor(values, dtype=torch.int64, device=self.device))

        return self

    @override
    @torch.inference_mode()
    def compute(self) -> dict[int, str]:
        rows = [text.tolist() for text in self.texts]

        return {row[0]: bytes(row[1:]).decode("utf-8") for row in rows}

    @override
    @torch.inference_mode()
    def merge_state(self, metrics: Iterable[Self]) -> Self:
        for metric in metrics:
            self.texts += [text.to(self.device) for text in metric.texts]

        return self


def summarize(results: Sequence[UtteranceResult]) -> dict[str, float]:
    """Compute the values of a source: rates in percent, the loss in nats a label.

    :param results: All utterances of the source, in the order of their indices.
    :returns: The values; the loss is not a number if no utterance has one.
    """
    words = sum_counts(r.words for r in results)
    chars = sum_counts(r.chars for r in results)

    # An utterance without a loss is counted instead.
    finite = [r for r in results if math.isfinite(r.loss)]
    num_impossible = sum(math.isinf(r.loss) for r in results)
    num_non_finite = len(results) - len(finite) - num_impossible

    num_labels = sum(r.num_labels for r in finite)
    num_frames = sum(r.num_frames for r in results)
    num_reference = sum(r.num_labels for r in results)

    row = {
        "ctc_loss": math.fsum(r.loss for r in finite) / num_labels if num_labels else math.nan,
        "wer": 100.0 * words.rate,
        "cer": 100.0 * chars.rate,
        "blank_share": sum(r.num_blank_frames for r in results) / max(num_frames, 1),
        "length_ratio": sum(r.num_hypothesis_labels for r in results) / max(num_reference, 1),
    }

    if num_impossible > 0:
        row["zero_loss"] = num_impossible

    if num_non_finite > 0:
        row["non_finite"] = num_non_finite

    return row


def _shown(name: str, priority: int) -> MetricDescriptor:
    return MetricDescriptor(name, name, priority, format_as_float)


METRIC_DESCRIPTORS: Final = (
    _shown("ctc_loss", 100),
    _shown("wer", 101),
    _shown("cer", 102),
    _shown("blank_share", 103),
    _shown("length_ratio", 104),
    _shown("macro_wer", 110),
    _shown(SCORE_METRIC, 111),
    _shown("worst_cer", 112),
    MetricDescriptor("worst_source", "worst_source", 113, lambda value: str(value)),
    _shown("group_weight", 120),
    MetricDescriptor("zero_loss", "zero_loss", 130, format_as_int),
    MetricDescriptor("non_finite", "non_finite", 131, format_as_int),
    MetricDescriptor("bad_recordings", "bad_recordings", 132, format_as_int),
    _shown("grad_norm", 212),
    _shown("lr", 220),
    _shown("audio_seconds_per_update", 300),
    _shown("audio_seconds_per_second", 301),
    MetricDescriptor("utterances", "utterances", 900, format_as_int, log=False),
    MetricDescriptor("audio_seconds", "audio_seconds", 900, format_as_int, log=False),
    MetricDescriptor("total_audio_seconds", "total_audio_seconds", 900, format_as_int, log=False),
)
"""What the logs say of a run: the loss in nats a label, error rates in percent, shares in [0, 1]."""
