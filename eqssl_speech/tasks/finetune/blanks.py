"""Says so when a model emits nothing but blanks, and why it may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

_ALL_BLANK: Final = 0.01
"""The greatest ratio of emitted to reference labels at which a model counts as silent."""

_FALLING: Final = 0.02
"""The relative fall of the loss over the silent validations that counts as progress."""


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What is known of a run at a validation."""

    step_nr: int
    num_encoder_frozen_steps: int
    """The updates at the start in which the encoder is frozen."""

    unigram_loss: float
    """The entropy of the training labels in nats: what a model reaches that has learnt how often each label occurs and
    nothing of the audio."""

    labels_per_frame: float
    """The share of frames that would carry a label were all emitted."""


@final
class BlankDetector:
    """Counts the validations in a row in which a model emits blanks only."""

    def __init__(self, num_validations: int) -> None:
        """:param num_validations: After so many the run is told."""
        self._num_validations = num_validations
        self._losses: list[float] = []

    def observe(self, rows: Mapping[str, Mapping[str, float]], state: TrainingState) -> str | None:
        """Look at one validation.

        :param rows: Per source ``ctc_loss`` (nats a label) and ``length_ratio`` (emitted over reference labels).
        :param state: What else is known.
        :returns: What to say, or ``None``.
        """
        if any(row["length_ratio"] > _ALL_BLANK for row in rows.values()):
            self._losses = []

            return None

        self._losses.append(sum(row["ctc_loss"] for row in rows.values()) / len(rows))

        if len(self._losses) < self._num_validations:
            return None

        first, last = self._losses[-self._num_validations], self._losses[-1]

        return (
            f"The model has emitted nothing but blanks in the last {len(self._losses)} validations (step "
            f"{state.step_nr}); the loss went from {first:.3f} to {last:.3f} nats a label. "
            f"{_explain(first, last, state)}"
        )


def _explain(first: float, last: float, state: TrainingState) -> str:
    if not math.isfinite(last):
        return (
            "The model's output is not a number, so training has diverged: lower the learning rate "
            "(`optimizer.config.lr`) or set `trainer.max_grad_norm`, and start anew or from an earlier checkpoint."
        )

    if state.labels_per_frame > 0.7:
        return (
            f"There are {state.labels_per_frame:.2f} labels a frame, more than CTC can well place: use a tokenizer "
            "with longer pieces (`eqssl tokenizer --kind unigram`), and look at `eqssl check --ctc`."
        )

    if state.step_nr <= state.num_encoder_frozen_steps:
        return (
            f"The encoder is frozen until step {state.num_encoder_frozen_steps}, so only the output layer learns, "
            "which may not be enough: lower `freeze.num_encoder_steps`."
        )

    if last < (1.0 - _FALLING) * first:
        return (
            "This is CTC's first plateau, and the loss is still falling: go on, with more updates "
            "(`regime.num_steps`) if these run out."
        )

    if last > 1.5 * state.unigram_loss:
        return (
            f"That is above {state.unigram_loss:.3f}, which label frequencies alone give, so the model has not yet "
            "learnt even these: raise the learning rate (`optimizer.config.lr`) or shorten its warm-up "
            "(`lr_scheduler.config.stage_ratio`); if the loss jumps about, lower it."
        )

    return (
        f"Label frequencies alone give {state.unigram_loss:.3f}, so the model uses little of the audio, and the loss "
        "no longer falls: check that text and recordings belong together (`eqssl check --ctc`), mask less "
        "(`model.config_overrides.max_temporal_mask_prob`), raise the learning rate, or start from a pre-trained "
        "encoder (`pretrained`)."
    )
