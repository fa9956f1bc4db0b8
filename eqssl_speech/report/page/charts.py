"""The pictures of a report that have lines over updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final


@final
@dataclass(frozen=True)
class Chart:
    """Lines over updates."""

    name: str
    title: str
    caption: str
    unit: str
    metrics: tuple[str, ...]

    is_of_training: bool = False
    """Whether the metrics are those of training, and not of validation."""

    has_zero: bool = False
    """Whether 0 is marked."""


LOSSES: Final = Chart(
    "losses",
    "Validation loss per source",
    "One panel for each run, one line for each source: the loss at the shared parameters on data that was not trained "
    "on. The dotted line is chance, what a model comes to that has learned nothing.",
    "bits",
    ("plain_loss",),
)

FINETUNING: Final = Chart(
    "finetuning",
    "Fine-tuning: character error rate",
    "One panel for each run: the error rate of greedy recognition on the validation data. 100 is the plateau on which "
    "nothing is recognised yet.",
    "percent",
    ("cer",),
)

OF_PRETRAINING: Final = (
    Chart(
        "average",
        "Validation loss, average over sources",
        "At the shared parameters, and after steps of gradient descent on each source by itself. Losses of different "
        "families, or of different labels, say nothing about each other.",
        "bits",
        ("plain_loss", "adapted_loss"),
    ),
    Chart(
        "gain",
        "Adaptation gain",
        "By how much the adaptation steps lower the loss. Above 0 they help, as equilibrium constraints ask for; a "
        "large gain is no virtue where the loss at the shared parameters is high.",
        "bits",
        ("adaptation_gain",),
        has_zero=True,
    ),
    Chart(
        "codes",
        "Accuracy and codes in use",
        "The share of masked frames that are told right, and the share of codes (or labels) in use. A share of codes "
        "that falls towards 0 is a collapse.",
        "share",
        ("accuracy", "code_share"),
    ),
    Chart(
        "conflict",
        "Conflict between sources",
        "The mean cosine between the gradients of two sources in an update: near 1 they ask for the same, below 0 for "
        "the opposite. Smoothed over five lines of the log.",
        "cosine",
        ("source_grad_cosine",),
        is_of_training=True,
        has_zero=True,
    ),
)

RATES: Final = Chart(
    "rates",
    "Learning rates",
    "The learning rate, and the size of the inner steps, which warms up.",
    "rate",
    ("lr", "inner_lr"),
    is_of_training=True,
)

CTC: Final = Chart(
    "ctc",
    "Fine-tuning: validation loss",
    "The loss on validation data, which moves before the error rate does.",
    "nats a label",
    ("ctc_loss",),
)
