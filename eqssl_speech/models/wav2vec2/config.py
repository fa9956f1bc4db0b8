"""Architectures for small machines, and what a configuration says of its input."""

from __future__ import annotations

from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2EncoderConfig
from fairseq2.runtime.config_registry import ConfigRegistrar
from fairseq2.runtime.dependency import DependencyContainer


def expects_normalized_audio(config: Wav2Vec2EncoderConfig) -> bool:
    """Say whether a model takes waveforms of zero mean and unit variance.

    As in the releases of wav2vec 2.0: models with layer norm in the feature extractor do, those with group norm take
    the waveform as it is. Every stage asks here, so that none can differ from another.
    """
    return config.feature_extractor_layer_norm_convs


def register_wav2vec2_archs(container: DependencyContainer) -> None:
    """Register the architectures ``tiny`` (2.3 M parameters) and ``micro`` (0.1 M) in the family ``wav2vec2``."""
    arch = ConfigRegistrar(container, Wav2Vec2Config)

    arch("tiny")(tiny_config)
    arch("micro")(micro_config)


def tiny_config() -> Wav2Vec2Config:
    """Return the architecture ``tiny``: learns in minutes on two CPU cores."""
    return _shrunk(feature_dim=96, model_dim=192, num_layers=4, num_heads=4, num_entries=64)


def micro_config() -> Wav2Vec2Config:
    """Return the architecture ``micro``: for tests."""
    return _shrunk(feature_dim=32, model_dim=48, num_layers=2, num_heads=2, num_entries=16)


def _shrunk(
    *, feature_dim: int, model_dim: int, num_layers: int, num_heads: int, num_entries: int
) -> Wav2Vec2Config:
    config = Wav2Vec2Config(
        final_dim=model_dim // 2,
        quantized_dim=model_dim // 2,
        num_codebook_entries=num_entries,
        num_distractors=50,
        codebook_sampling_temperature=(2.0, 0.5, 0.999),
    )

    encoder = config.encoder_config

    encoder.feature_dim = feature_dim
    encoder.feature_extractor_layer_descs = [
        (feature_dim, kernel_size, stride)
        for _, kernel_size, stride in encoder.feature_extractor_layer_descs
    ]
    encoder.model_dim = model_dim
    encoder.num_encoder_layers = num_layers
    encoder.num_encoder_attn_heads = num_heads
    encoder.ffn_inner_dim = 4 * model_dim
    encoder.dropout_p = 0.0
    encoder.attn_dropout_p = 0.0
    encoder.layer_drop_p = 0.0
    encoder.feature_grad_scale = 1.0

    return config
