"""How the metrics of pre-training are named and shown. A metric's key in the logs is its name."""

from __future__ import annotations

from typing import Final

from fairseq2.metrics.formatters import format_as_float, format_as_int
from fairseq2.metrics.recorders import MetricDescriptor


def _shown(name: str, priority: int, *, higher_better: bool = False) -> MetricDescriptor:
    return MetricDescriptor(name, name, priority, format_as_float, higher_better=higher_better)


def _recorded(name: str) -> MetricDescriptor:
    return MetricDescriptor(name, name, 900, format_as_int, log=False)


METRIC_DESCRIPTORS: Final = (
    _shown("plain_loss", 100),
    _shown("adapted_loss", 101),
    _shown("adaptation_gain", 102, higher_better=True),
    _shown("accuracy", 110, higher_better=True),
    _shown("majority_share", 111),
    _shown("label_entropy", 112),
    _shown("code_perplexity", 120, higher_better=True),
    _shown("prob_perplexity", 121, higher_better=True),
    _shown("code_share", 122, higher_better=True),
    _shown("chance", 130),
    _shown("worst_plain_loss", 131),
    MetricDescriptor("worst_source", "worst_source", 132, lambda value: str(value)),
    _shown("source_grad_cosine", 200),
    _shown("inner_grad_norm", 210),
    _shown("inner_lr", 211),
    _shown("grad_norm", 212),
    _shown("lr", 220),
    _shown("audio_seconds_per_update", 300),
    _shown("audio_seconds_per_second", 301),
    _recorded("audio_seconds"),
    _recorded("total_audio_seconds"),
    _recorded("utterances"),
    MetricDescriptor("non_finite", "non_finite", 310, format_as_int),
    MetricDescriptor("exploded", "exploded", 311, format_as_int),
    MetricDescriptor("dead", "dead", 312, format_as_int),
    MetricDescriptor("bad_recordings", "bad_recordings", 313, format_as_int),
)
"""What the logs say of a run; losses in bits per masked frame.

Where targets have labels, ``majority_share`` is the share of the most frequent one, the accuracy of a model that knows
nothing else, and ``label_entropy`` its loss; a validation gives that as ``chance``.

Of a source, ``non_finite``, ``exploded`` and ``dead`` are the episodes so far, as each rank counts them, that
contributed nothing: a number was not finite, the loss rose too far over the inner loop, no recording could be read. Its
``inner_lr`` is there once it was lowered.
"""
