"""The configuration of HuBERT, and its architectures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2EncoderConfig
from fairseq2.runtime.config_registry import ConfigRegistrar
from fairseq2.runtime.dependency import DependencyContainer
from fairseq2.utils.validation import ValidationResult

from eqssl_speech.models.wav2vec2.config import micro_config as micro_wav2vec2_config
from eqssl_speech.models.wav2vec2.config import tiny_config as tiny_wav2vec2_config

HUBERT_FAMILY: Final = "hubert"


@dataclass(kw_only=True)
class HubertConfig:
    """The configuration of a HuBERT (arXiv 2106.07447); its defaults are the base architecture of the paper."""

    encoder_config: Wav2Vec2EncoderConfig = field(
        # Dropout of the projected features ("dropout_input" in fairseq) is what wav2vec 2.0's base has not.
        default_factory=lambda: Wav2Vec2EncoderConfig(first_pass_dropout_p=0.1)
    )
    """The configuration of the encoder, which is that of wav2vec 2.0."""

    final_dim: int = 256
    """The dimensionality of the projected outputs of the encoder, and of the embedding of a code."""

    num_codes: list[int] = field(default_factory=lambda: [500])
    """The number of codes (clusters) of each label set; a label is in [0, number of codes of its set)."""

    shared_final_proj: bool = False
    """If ``True``, all label sets share one projection of the encoder's outputs; otherwise each has its own."""

    # Mask
    temporal_mask_span_len: int = 10
    """The length of each temporal mask span, in frames."""

    max_temporal_mask_prob: float = 0.8
    """The share of frames to mask if spans did not overlap. As they do, it is ``1 - exp(-this)`` or less."""

    min_num_temporal_mask_spans: int = 2
    """The least number of temporal mask spans per sequence."""

    spatial_mask_span_len: int = 10
    """The length of each spatial mask span, in features."""

    max_spatial_mask_prob: float = 0.0
    """The share of features to mask if spans did not overlap."""

    min_num_spatial_mask_spans: int = 2
    """The least number of spatial mask spans per sequence."""

    # Loss
    logit_temp: float = 0.1
    """The temperature that cosines are divided by. *Range:* greater than 0."""

    # Checkpoints
    init_missing_head: bool = False
    """If ``True``, a checkpoint without what only pre-training needs (the projection and the embeddings of codes, which
    releases of Hugging Face and fine-tuned models lack) is accepted, and that is initialised; otherwise it is refused.
    Says nothing about the model."""

    def validate(self) -> ValidationResult:
        """Check what no type says; called by the host."""
        result = ValidationResult()

        if not self.num_codes:
            result.add_error("`num_codes` must hold a number for each label set, but is empty.")

        for num_codes in self.num_codes:
            if num_codes < 2:
                result.add_error(
                    "`num_codes` must be greater than or equal to 2 for each label set, but is "
                    f"{self.num_codes} instead."
                )
                break

        if self.final_dim < 1:
            result.add_error(
                f"`final_dim` must be greater than or equal to 1, but is {self.final_dim} instead."
            )

        if self.logit_temp <= 0.0:
            result.add_error(
                f"`logit_temp` must be greater than 0, but is {self.logit_temp} instead."
            )

        return result


def register_hubert_archs(container: DependencyContainer) -> None:
    """Register the architectures of the paper and the small ones.

    ``base`` (95 M parameters), ``large`` (317 M) and ``xlarge`` (964 M) are those of arXiv 2106.07447, regularised as
    in fairseq's ``examples/hubert/config/pretrain``; ``tiny`` (2.3 M) and ``micro`` (0.1 M) have the encoders of
    wav2vec 2.0's of these names.

    :param container: The host's container of components.
    """
    arch = ConfigRegistrar(container, HubertConfig)

    arch("base")(base_config)
    arch("large")(large_config)
    arch("xlarge")(xlarge_config)
    arch("tiny")(tiny_config)
    arch("micro")(micro_config)


def base_config() -> HubertConfig:
    """Return the architecture ``base``."""
    return HubertConfig()


def large_config() -> HubertConfig:
    """Return the architecture ``large``, which takes normalised waveforms and is not regularised."""
    return _enlarged(num_layers=24, model_dim=1024, final_dim=768)


def xlarge_config() -> HubertConfig:
    """Return the architecture ``xlarge``, which takes normalised waveforms and is not regularised."""
    return _enlarged(num_layers=48, model_dim=1280, final_dim=1024)


def tiny_config(num_codes: Sequence[int] = (100,)) -> HubertConfig:
    """Return the architecture ``tiny``: learns in minutes on two CPU cores.

    :param num_codes: The number of codes of each label set.
    """
    return _with_encoder_of(tiny_wav2vec2_config(), num_codes)


def micro_config(num_codes: Sequence[int] = (16,)) -> HubertConfig:
    """Return the architecture ``micro``: for tests.

    :param num_codes: The number of codes of each label set.
    """
    return _with_encoder_of(micro_wav2vec2_config(), num_codes)


def _enlarged(*, num_layers: int, model_dim: int, final_dim: int) -> HubertConfig:
    encoder_config = Wav2Vec2EncoderConfig(
        model_dim=model_dim,
        layer_norm_features=False,
        feature_extractor_layer_norm_convs=True,
        feature_grad_scale=1.0,
        num_encoder_layers=num_layers,
        num_encoder_attn_heads=16,
        ffn_inner_dim=4 * model_dim,
        dropout_p=0.0,
        attn_dropout_p=0.0,
        layer_drop_p=0.0,
        norm_order=TransformerNormOrder.PRE,
    )

    return HubertConfig(encoder_config=encoder_config, final_dim=final_dim)


def _with_encoder_of(config: Wav2Vec2Config, num_codes: Sequence[int]) -> HubertConfig:
    return HubertConfig(
        encoder_config=config.encoder_config,
        final_dim=config.final_dim,
        num_codes=list(num_codes),
    )
