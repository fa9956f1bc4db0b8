"""A model that was read from somewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2EncoderConfig
from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig
from torch import Tensor

from eqssl_speech.models.checkpoint import RunCheckpoint
from eqssl_speech.models.formats.names import Family, Library
from eqssl_speech.models.formats.shapes import AnyConfig
from eqssl_speech.models.formats.transformers_config import ModelType
from eqssl_speech.models.hubert import HubertConfig

FAMILY_CONFIGS: Final[Mapping[Family, type]] = {
    "wav2vec2": Wav2Vec2Config,
    "wav2vec2_asr": Wav2Vec2AsrConfig,
    "hubert": HubertConfig,
}
"""The configurations of the families."""


@final
@dataclass(frozen=True)
class SpeechCheckpoint:
    """A model: what it looks like, and its tensors."""

    source: str
    """Where it comes from, in words."""

    family: Family
    """What it is. An encoder alone is one of ``wav2vec2`` or ``hubert`` whose head is missing."""

    config: AnyConfig
    """What it looks like."""

    tensors: Mapping[str, Tensor]
    """Its tensors by our names, on the CPU. Some may be missing, or be none of the model's."""

    library: Library | None
    """The library that has written it; ``None`` if its tensors have our names."""

    path: Path | None
    """The file or directory; ``None`` of an asset."""

    former_type: ModelType = "wav2vec2"
    """Of a recogniser, what its encoder was before, which computes the same."""

    run: RunCheckpoint | None = None
    """Where it is in a run, if it is of one."""

    guessed: tuple[str, ...] = ()
    """The fields of ``encoder_config`` that it does not say, and that are as in released models of its size."""

    @property
    def encoder_config(self) -> Wav2Vec2EncoderConfig:
        """What its encoder looks like."""
        return self.config.encoder_config

    @property
    def encoder_type(self) -> ModelType:
        """What its encoder is, or was before it became a recogniser."""
        return self.former_type if self.family == "wav2vec2_asr" else self.family
