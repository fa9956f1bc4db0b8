"""Makes a HuBERT of its configuration."""

from __future__ import annotations

from typing import final

from fairseq2.models.wav2vec2 import StandardWav2Vec2Masker, Wav2Vec2EncoderFactory

from eqssl_speech.models.hubert.config import HubertConfig
from eqssl_speech.models.hubert.model import HubertModel


def create_hubert_model(config: HubertConfig) -> HubertModel:
    """Make a HuBERT with new parameters.

    :param config: Its configuration.
    """
    return HubertFactory(config).create_model()


@final
class HubertFactory:
    """Makes a HuBERT and its parts."""

    def __init__(self, config: HubertConfig) -> None:
        """:param config: The configuration of the model."""
        self._config = config

    def create_model(self) -> HubertModel:
        """Make the whole model."""
        config = self._config

        encoder_factory = Wav2Vec2EncoderFactory(config.encoder_config)

        return HubertModel(
            config.encoder_config.model_dim,
            encoder_factory.create_encoder_frontend(),
            encoder_factory.create_encoder(),
            self.create_masker(),
            config.num_codes,
            config.final_dim,
            shared_final_proj=config.shared_final_proj,
            logit_temp=config.logit_temp,
        )

    def create_masker(self) -> StandardWav2Vec2Masker:
        """Make the masker of features."""
        config = self._config

        return StandardWav2Vec2Masker(
            config.encoder_config.model_dim,
            config.temporal_mask_span_len,
            config.max_temporal_mask_prob,
            config.min_num_temporal_mask_spans,
            config.spatial_mask_span_len,
            config.max_spatial_mask_prob,
            config.min_num_spatial_mask_spans,
        )
