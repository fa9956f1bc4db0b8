"""fairseq2's wav2vec 2.0 ASR family: small architectures, and the configuration that fits a pre-trained encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2EncoderConfig
from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig
from fairseq2.runtime.config_registry import ConfigRegistrar
from fairseq2.runtime.dependency import DependencyContainer

from eqssl_speech.models.wav2vec2.config import micro_config, tiny_config

REGULARIZATION: Final = (
    "first_pass_dropout_p",
    "feature_grad_scale",
    "dropout_p",
    "attn_dropout_p",
    "ffn_inner_dropout_p",
    "layer_drop_p",
)
"""The fields of an encoder's configuration that say how it is trained; the others say what it computes."""


def register_wav2vec2_asr_archs(container: DependencyContainer) -> None:
    """Register the architectures ``tiny`` (2.2 M parameters) and ``micro`` (0.1 M) in the family ``wav2vec2_asr``."""
    arch = ConfigRegistrar(container, Wav2Vec2AsrConfig)

    arch("tiny")(tiny_asr_config)
    arch("micro")(micro_asr_config)


def tiny_asr_config() -> Wav2Vec2AsrConfig:
    """Return the architecture ``tiny``, which goes with the one of pre-training."""
    return _with_encoder_of(tiny_config())


def micro_asr_config() -> Wav2Vec2AsrConfig:
    """Return the architecture ``micro``, for tests."""
    return _with_encoder_of(micro_config())


def fit_asr_config(
    config: Wav2Vec2AsrConfig, encoder_config: Wav2Vec2EncoderConfig, vocab_size: int
) -> Wav2Vec2AsrConfig:
    """Give a configuration the encoder of another one; how it is regularised stays.

    :param config: Says how the encoder is regularised and what is masked.
    :param encoder_config: Says what the encoder computes, as in :attr:`PretrainedEncoder.config`.
    :param vocab_size: The number of labels, the blank included.
    :returns: A new configuration. The length of a spatial mask span is scaled with the dimensionality of the model,
        because spans made for 768 features hardly fit into 192.
    """
    regularization = {name: getattr(config.encoder_config, name) for name in REGULARIZATION}

    scale = encoder_config.model_dim / config.encoder_config.model_dim

    return replace(
        config,
        encoder_config=replace(encoder_config, **regularization),
        target_vocab_size=vocab_size,
        spatial_mask_span_len=max(1, round(config.spatial_mask_span_len * scale)),
    )


def _with_encoder_of(pretraining: Wav2Vec2Config) -> Wav2Vec2AsrConfig:
    # The larger models' masks are made for hundreds of hours of pre-training. Small models have to learn more from the
    # labels. Without a least number of spans a short utterance is not masked, where the host would raise.
    config = Wav2Vec2AsrConfig(
        max_temporal_mask_prob=0.3,
        min_num_temporal_mask_spans=0,
        max_spatial_mask_prob=0.2,
        min_num_spatial_mask_spans=0,
    )

    return fit_asr_config(config, pretraining.encoder_config, config.target_vocab_size)
