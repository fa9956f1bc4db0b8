"""Models of random weights, exported as ONNX."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig
from fairseq2.models.wav2vec2.factory import Wav2Vec2EncoderFactory
from fairseq2.nn import Linear
from torch import Tensor

from eqssl_speech.export.model import SpeechModel
from eqssl_speech.export.onnx import write_onnx
from eqssl_speech.export.vocabulary import Vocabulary
from eqssl_speech.models.wav2vec2.config import micro_config, tiny_config

Waveform = npt.NDArray[np.float32]

Exported = Callable[[str], tuple[SpeechModel, Path]]

TOLERANCE = 1e-4
"""Absolute, in float32: features and logits are of the order 1 to 10, behind sums of some 1e3 products."""

RATE = 16_000

AUDIO = Path(__file__).parents[1] / "recipes" / "quickstart" / "corpus" / "ru-festvox" / "audio"

LETTERS = Vocabulary(("<pad>", "<unk>", "▁", *"абвгдежз"), 0, frozenset({0, 1}), "▁")

MICRO = micro_config().encoder_config

# Takes normalised audio, and an utterance's output does not depend on what it is padded to.
NORMALIZED = replace(MICRO, feature_extractor_layer_norm_convs=True, feature_extractor_bias=True)

CONFORMER = replace(
    NORMALIZED,
    use_conformer=True,
    norm_order=TransformerNormOrder.POST,
    depthwise_conv_kernel_size=31,
)

BASE = Wav2Vec2EncoderConfig(num_encoder_layers=2)

LARGE_LV60K = replace(
    BASE,
    model_dim=1024,
    num_encoder_attn_heads=16,
    ffn_inner_dim=4096,
    layer_norm_features=False,
    feature_extractor_bias=True,
    feature_extractor_layer_norm_convs=True,
    norm_order=TransformerNormOrder.PRE,
)

CONFIGS = {
    "micro": MICRO,
    "tiny": tiny_config().encoder_config,
    "normalized": NORMALIZED,
    "post-norm": replace(NORMALIZED, norm_order=TransformerNormOrder.POST),
    "biased-group-norm": replace(MICRO, feature_extractor_bias=True),
    "no-projection": replace(
        NORMALIZED,
        feature_dim=48,
        feature_extractor_layer_descs=[
            (48, kernel, stride) for _, kernel, stride in MICRO.feature_extractor_layer_descs
        ],
    ),
    "normalized-features": replace(NORMALIZED, layer_norm_features=True),
    "odd-kernel": replace(NORMALIZED, pos_conv_kernel_size=31),
    "stacked-positions": replace(NORMALIZED, pos_encoder_depth=5, pos_conv_kernel_size=95),
    "stacked-even-kernels": replace(NORMALIZED, pos_encoder_depth=2),
    "rotary": replace(NORMALIZED, pos_encoder_type="rotary"),
    "relative": replace(NORMALIZED, pos_encoder_type="relative"),
    "conformer": CONFORMER,
    "conformer-relative": replace(
        CONFORMER, pos_encoder_type="relative", depthwise_conv_kernel_size=8
    ),
    "conformer-rotary": replace(CONFORMER, pos_encoder_type="rotary"),
}

# The true shapes, but for the number of layers.
LARGE_CONFIGS = {"base": BASE, "large-lv60k": LARGE_LV60K}


def make_model(config: Wav2Vec2EncoderConfig, num_labels: int | None) -> SpeechModel:
    """All that is initialised to zeros and ones is moved away from them, and nothing has been computed yet."""
    torch.manual_seed(1)

    factory = Wav2Vec2EncoderFactory(config)
    final_proj = None if num_labels is None else Linear(config.model_dim, num_labels, bias=True)
    model = SpeechModel(
        config, factory.create_encoder_frontend(), factory.create_encoder(), final_proj
    )

    with torch.no_grad():
        for name, param in model.named_parameters():
            if param.ndim == 1 or name.endswith(("weight_g", "u_bias", "v_bias")):
                param.add_(0.1 * torch.randn(param.shape))
            elif param.ndim == 2:
                param.mul_(2.0)

        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.3 * torch.rand(buffer.shape))

    return model


def export(
    directory: Path, model: SpeechModel, vocabulary: Vocabulary | None, sample_rate: int = RATE
) -> Path:
    directory.mkdir()
    write_onnx(
        directory, model, vocabulary, sample_rate=sample_rate, metadata={"source": "s", "a": "b"}
    )

    return directory


def export_once(root: Path) -> Exported:
    """Returns what exports the model of a configuration, before it has computed anything, and keeps both."""

    @functools.cache
    def export_named(name: str) -> tuple[SpeechModel, Path]:
        model = make_model({**CONFIGS, **LARGE_CONFIGS}[name], len(LETTERS.pieces))

        return model, export(root / name, model, LETTERS)

    return export_named


def make_noise(lengths: Sequence[int], *, seed: int = 1, level: float = 0.1) -> list[Waveform]:
    """White noise, with an offset."""
    rng = np.random.default_rng(seed)

    return [(level * (rng.standard_normal(n) + 0.3)).astype(np.float32) for n in lengths]


def read_recording(name: str, num_samples: int, level: float = 1.0) -> Waveform:
    samples, rate = soundfile.read(AUDIO / name, dtype="float32")
    assert rate == RATE

    return np.asarray(level * samples[:num_samples], dtype=np.float32)


def run_graph(file: Path, **inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    # Those that import this file may have to do without.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(file), options)
    names = [output.name for output in session.get_outputs()]

    return dict(zip(names, session.run(names, inputs), strict=True))


def pad(waveforms: Sequence[Waveform], value: float) -> npt.NDArray[np.float32]:
    rows = np.full((len(waveforms), max(map(len, waveforms))), value, dtype=np.float32)

    for row, waveform in zip(rows, waveforms, strict=True):
        row[: len(waveform)] = waveform

    return rows


def find_largest(ours: Sequence[Tensor] | None, theirs: Sequence[Tensor] | None) -> float:
    """The largest absolute difference."""
    assert ours is not None
    assert theirs is not None

    assert [x.shape for x in ours] == [x.shape for x in theirs]

    return max(float((x - y).abs().max()) for x, y in zip(ours, theirs, strict=True))
