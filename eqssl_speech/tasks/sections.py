"""Sections that the configurations of all training recipes have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fairseq2.recipe.config import ModelSection
from fairseq2.utils.validation import Validatable, ValidationResult

from eqssl_speech.data.audio import AudioFormat

_LEAST_AUDIO_S: Final = 0.62


@dataclass(kw_only=True)
class SpeechModelSection(ModelSection):
    """The host's section, and how the model is computed."""

    fast: bool = True
    """Whether to compute the host's numbers, but for rounding, in less time and memory
    (:func:`~eqssl_speech.models.wav2vec2.accelerate`). A resumed run may change it."""


@dataclass(kw_only=True)
class AudioSourcesSection(Validatable):
    """The data sources, the audio of an update, and what a recording must be like."""

    corpus: Path | None = None
    """The corpus directory: one folder of fairseq manifests per source."""

    sources: list[str] | None = None
    """The names of the sources to use; ``null`` for all."""

    sources_per_step: int | None = None
    """How many sources are drawn for each update; ``null`` takes all of them, once each."""

    sampling_alpha: float = 1.0
    """Sources are drawn by ``p_i ~ n_i^alpha``, n_i their seconds of audio; ``mixed`` mixes so. *Range:* [0, 1]."""

    audio_seconds_per_update: float = 320.0
    """Seconds of audio of one update over all sources, ranks, inner and outer steps."""

    min_audio_s: float = 1.0
    """Shorter recordings are left out, counted and named. At least 0.62, the least that wav2vec 2.0 can mask."""

    max_audio_s: float = 15.6
    """The length of the longest recording that is taken whole, in seconds."""

    sample_rate: int = 16_000
    """What the model takes, in Hz."""

    resample: bool = False
    """Whether recordings of another sample rate are resampled; otherwise they are bad recordings."""

    downmix: bool = False
    """Whether recordings of several channels are averaged to one; otherwise they are bad recordings."""

    max_bad_share: float = 0.4
    """The run refuses to start if more than this share of a source's recordings is bad. *Range:* [0, 1]."""

    num_workers: int = 2
    """How many batches or episodes are decoded at once."""

    num_prefetch: int = 4
    """How many batches or episodes are held ready."""

    @property
    def audio_format(self) -> AudioFormat:
        """The audio format that recordings must have or are brought to."""
        return AudioFormat(
            sample_rate=self.sample_rate, resample=self.resample, downmix=self.downmix
        )

    def validate(self) -> ValidationResult:
        """Check every field; errors name the field, the rule and the value."""
        result = ValidationResult()

        require_at_least(result, self, 1, "num_workers", "num_prefetch", "sample_rate")

        if self.sources_per_step is not None:
            require_at_least(result, self, 1, "sources_per_step")

        require_positive(result, self, "audio_seconds_per_update", "min_audio_s", "max_audio_s")

        if self.min_audio_s < _LEAST_AUDIO_S:
            result.add_error(
                f"`min_audio_s` must be at least {_LEAST_AUDIO_S}, the least that wav2vec 2.0 can mask, but is "
                f"{self.min_audio_s} instead."
            )

        require_share(result, self, "sampling_alpha", "max_bad_share")

        if self.max_audio_s < self.min_audio_s:
            result.add_error(
                f"`max_audio_s` must be at least `min_audio_s` ({self.min_audio_s}), but is "
                f"{self.max_audio_s} instead."
            )

        return result


def require_at_least(result: ValidationResult, section: object, bound: int, *names: str) -> None:
    """Add an error for each field that is less than a bound."""
    for name in names:
        value = getattr(section, name)
        if value < bound:
            result.add_error(
                f"`{name}` must be greater than or equal to {bound}, but is {value} instead."
            )


def require_positive(result: ValidationResult, section: object, *names: str) -> None:
    """Add an error for each field that is not greater than 0 and finite."""
    for name in names:
        value = getattr(section, name)
        if not 0.0 < value < math.inf:
            result.add_error(f"`{name}` must be greater than 0 and finite, but is {value} instead.")


def require_share(result: ValidationResult, section: object, *names: str) -> None:
    """Add an error for each field that is not within [0, 1]."""
    for name in names:
        value = getattr(section, name)
        if not 0.0 <= value <= 1.0:
            result.add_error(f"`{name}` must be within [0, 1], but is {value} instead.")
