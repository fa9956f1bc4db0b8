"""fairseq2's wav2vec 2.0 family: small architectures, and what has to be mended in it."""

from __future__ import annotations

from eqssl_speech.models.wav2vec2.asr import fit_asr_config, register_wav2vec2_asr_archs
from eqssl_speech.models.wav2vec2.config import (
    expects_normalized_audio,
    register_wav2vec2_archs,
)
from eqssl_speech.models.wav2vec2.fast import accelerate
from eqssl_speech.models.wav2vec2.freezing import FreezeSchedule
from eqssl_speech.models.wav2vec2.quantizer import StepwiseQuantizer, prepare_model
from eqssl_speech.models.wav2vec2.second_order import make_twice_differentiable

__all__ = [
    "FreezeSchedule",
    "StepwiseQuantizer",
    "accelerate",
    "expects_normalized_audio",
    "fit_asr_config",
    "make_twice_differentiable",
    "prepare_model",
    "register_wav2vec2_archs",
    "register_wav2vec2_asr_archs",
]
