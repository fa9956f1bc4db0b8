"""The model of a run: its shape is that of the pre-trained encoder, its vocabulary that of the tokenizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import final

import torch
from fairseq2.models import ModelFamily
from fairseq2.models.wav2vec2.asr import (
    WAV2VEC2_ASR_FAMILY,
    Wav2Vec2AsrConfig,
    create_wav2vec2_asr_model,
)
from fairseq2.recipe.internal.asset_config import (
    _AssetConfigOverrider,
    _StandardAssetConfigOverrider,
)
from fairseq2.runtime.dependency import DependencyLookup, DependencyResolver, wire_object
from typing_extensions import override

from eqssl_speech.error import InputError
from eqssl_speech.models.formats.transformers_config import ModelType
from eqssl_speech.models.opening import read_encoder_config, read_encoder_type
from eqssl_speech.models.wav2vec2 import fit_asr_config
from eqssl_speech.models.wav2vec2.pretrained import load_encoder
from eqssl_speech.tasks.finetune.config import FinetuneConfig
from eqssl_speech.text.frames import num_frames
from eqssl_speech.text.tokenizer import CtcTokenizer


@final
class AdaptedModelConfig(_AssetConfigOverrider):
    """Gives the architecture that the configuration names the shape of the pre-trained encoder and the vocabulary of
    the tokenizer, and then applies `model.config_overrides`, as the host does."""

    def __init__(
        self, resolver: DependencyResolver, config: FinetuneConfig, tokenizer: CtcTokenizer
    ) -> None:
        """
        :param resolver: The host's resolver.
        :param config: The configuration of the run.
        :param tokenizer: The tokenizer of the run.
        """
        self._host = wire_object(resolver, _StandardAssetConfigOverrider)
        self._config = config
        self._tokenizer = tokenizer
        self._model_config: Wav2Vec2AsrConfig | None = None

    @property
    def model_config(self) -> Wav2Vec2AsrConfig:
        """What the last call of :meth:`apply_overrides` returned."""
        assert self._model_config is not None

        return self._model_config

    @property
    def encoder_type(self) -> ModelType:
        """What the encoder was before."""
        pretrained = self._config.pretrained

        return "wav2vec2" if pretrained is None else read_encoder_type(pretrained)

    @override
    def apply_overrides(
        self, section_name: str, config: object, unstructured_overrides: object | None
    ) -> object:
        assert isinstance(config, Wav2Vec2AsrConfig)

        encoder_config = config.encoder_config

        if self._config.pretrained is not None:
            encoder_config = read_encoder_config(self._config.pretrained) or encoder_config

        config = fit_asr_config(config, encoder_config, self._tokenizer.vocab_size)

        result = self._host.apply_overrides(section_name, config, unstructured_overrides)

        assert isinstance(result, Wav2Vec2AsrConfig)

        if result.target_vocab_size != self._tokenizer.vocab_size:
            raise InputError(
                f"`model.config_overrides.target_vocab_size` is {result.target_vocab_size}, but the tokenizer has "
                f"{self._tokenizer.vocab_size} pieces: leave it out."
            )

        section = self._config.dataset

        self._model_config = fit_masking(
            result, num_frames(int(section.min_audio_s * section.sample_rate))
        )

        return self._model_config


def fit_masking(config: Wav2Vec2AsrConfig, min_num_frames: int) -> Wav2Vec2AsrConfig:
    """Return a configuration that can mask the shortest utterances.

    The host stops at a batch in which fewer spans fit than are asked for at the least; that could be any batch.

    :param config: The configuration of the model.
    :param min_num_frames: The frames of the shortest utterance.
    :raises InputError: If nothing is to be masked, or a span is as long as that utterance.
    """
    if not config.use_masking:
        return config

    if config.max_temporal_mask_prob <= 0.0:
        raise InputError(
            "`model.config_overrides.max_temporal_mask_prob` must be greater than 0, but is "
            f"{config.max_temporal_mask_prob} instead; set `model.config_overrides.use_masking` to false for no masks."
        )

    if config.temporal_mask_span_len >= min_num_frames:
        raise InputError(
            f"`model.config_overrides.temporal_mask_span_len` is {config.temporal_mask_span_len}, but the shortest "
            f"utterances have {min_num_frames} frames: raise `dataset.min_audio_s`, or lower it."
        )

    def fit(min_num_spans: int, span_len: int, probability: float, length: int) -> int:
        # In float32, as the host counts them: in float64 it can be one more.
        num_spans = probability / span_len * torch.tensor([length - 1])

        return min(min_num_spans, int(num_spans))

    return replace(
        config,
        min_num_temporal_mask_spans=fit(
            config.min_num_temporal_mask_spans,
            config.temporal_mask_span_len,
            config.max_temporal_mask_prob,
            min_num_frames,
        ),
        min_num_spatial_mask_spans=fit(
            config.min_num_spatial_mask_spans,
            config.spatial_mask_span_len,
            config.max_spatial_mask_prob,
            config.encoder_config.model_dim,
        ),
    )


def check_model(resolver: DependencyResolver, config: FinetuneConfig) -> None:
    """Find out now rather than once the output directory is made whether there can be such a model.

    :raises InputError: If the architecture is unknown, or the configuration does not fit the data.
    """
    family = DependencyLookup(resolver, ModelFamily).maybe_get(WAV2VEC2_ASR_FAMILY)

    assert family is not None

    arch = config.model.arch
    model_config = family.config_kls() if arch is None else family.maybe_get_arch_config(arch)

    if model_config is None:
        raise InputError(
            f"`model.arch` is '{arch}', which the family '{WAV2VEC2_ASR_FAMILY}' does not have; it has "
            f"{', '.join(sorted(family.get_archs()))}."
        )

    adapted = resolver.resolve(AdaptedModelConfig)

    adapted.apply_overrides("model", model_config, config.model.config_overrides)

    num_layers = adapted.model_config.encoder_config.num_encoder_layers

    if not 0 <= config.num_new_layers <= num_layers:
        raise InputError(
            f"`num_new_layers` is {config.num_new_layers}, but must be from 0 to {num_layers}, the number of layers of "
            "the encoder."
        )

    num_steps = config.regime.num_steps

    if (
        config.pretrained is not None
        and config.num_new_layers > 0
        and num_steps is not None
        and config.freeze.num_encoder_steps >= num_steps
    ):
        raise InputError(
            f"`num_new_layers` is {config.num_new_layers}, but the encoder is frozen for all {num_steps} updates, so "
            "that these layers would stay random: lower `freeze.num_encoder_steps`, or set `num_new_layers=0`."
        )

    # The tensors too, unless they would have to be downloaded: whether they fit shows only in them.
    if config.pretrained is not None and Path(config.pretrained).exists():
        with torch.device("meta"):
            model = create_wav2vec2_asr_model(adapted.model_config)

        load_encoder(model, config.pretrained, adapted.model_config.encoder_config)
