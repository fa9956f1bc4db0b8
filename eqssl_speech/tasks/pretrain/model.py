"""The model of a run: what it predicts follows from the labels."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Final, final

from fairseq2.recipe.internal.asset_config import (
    _AssetConfigOverrider,
    _StandardAssetConfigOverrider,
)
from fairseq2.runtime.dependency import DependencyResolver, wire_object
from typing_extensions import override

from eqssl_speech.error import InputError
from eqssl_speech.models.hubert import HubertConfig
from eqssl_speech.tasks.pretrain.sources import CheckedSources

FRAME_STRIDE: Final = 320
"""The samples from one frame of a model to the next, 20 ms at 16 kHz, which labels are matched to."""


@final
class LabelledModelConfig(_AssetConfigOverrider):
    """Applies `model.config_overrides`, as the host does, and gives a model that predicts labels their number."""

    def __init__(self, resolver: DependencyResolver, sources: CheckedSources) -> None:
        """
        :param resolver: The host's resolver.
        :param sources: The sources of the run, with their labels if it has some.
        """
        self._host = wire_object(resolver, _StandardAssetConfigOverrider)
        self._labels = sources.labels

    @override
    def apply_overrides(
        self, section_name: str, config: object, unstructured_overrides: object | None
    ) -> object:
        if not isinstance(config, HubertConfig) or self._labels is None:
            return self._host.apply_overrides(section_name, config, unstructured_overrides)

        num_codes = list(self._labels.num_codes)

        result = self._host.apply_overrides(
            section_name, replace(config, num_codes=num_codes), unstructured_overrides
        )

        assert isinstance(result, HubertConfig)

        if result.num_codes != num_codes:
            raise InputError(
                f"`model.config_overrides.num_codes` is {result.num_codes}, but the labels of `dataset.labels` have "
                f"{num_codes}: leave it out."
            )

        stride = prod(desc[2] for desc in result.encoder_config.feature_extractor_layer_descs)

        if stride != FRAME_STRIDE:
            raise InputError(
                f"`model.config_overrides.encoder_config.feature_extractor_layer_descs` makes a frame of {stride} "
                f"samples, but labels are matched to frames of {FRAME_STRIDE}: leave it out."
            )

        return result
