"""The model of a run: its shape is that of the pre-trained encoder, its vocabulary that of the tokenizer."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig
from fairseq2.recipe.internal.asset_config import (
    _AssetConfigOverrider,
    _StandardAssetConfigOverrider,
)
from fairseq2.runtime.dependency import DependencyResolver, wire_object
from typing_extensions import override

from eqssl_speech.error import InputError
from eqssl_speech.models.wav2vec2 import fit_asr_config
from eqssl_speech.models.wav2vec2.pretrained import read_encoder_config
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

        return fit_masking(result, num_frames(int(section.min_audio_s * section.sample_rate)))


def fit_masking(config: Wav2Vec2AsrConfig, min_num_frames: int) -> Wav2Vec2AsrConfig:
    """Return a configuration that can mask the shortest utterances.

    The host stops at a batch in which fewer spans fit than are asked for at the least; that could be any batch.

    :param config: The configuration of the model.
    :param min_num_frames: The frames of the shortest utterance.
    :raises InputError: If a span is as long as that utterance.
    """
    if not config.use_masking:
        return config

    if config.temporal_mask_span_len >= min_num_frames:
        raise InputError(
            f"`model.config_overrides.temporal_mask_span_len` is {config.temporal_mask_span_len}, but the shortest "
            f"utterances have {min_num_frames} frames: raise `dataset.min_audio_s`, or lower it."
        )

    def fit(min_num_spans: int, span_len: int, probability: float, length: int) -> int:
        return min(min_num_spans, int(probability / span_len * (length - 1)))

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
