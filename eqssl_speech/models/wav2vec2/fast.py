"""The same wav2vec 2.0 in less time and memory: the same parameters, the same checkpoints, the same numbers."""

from __future__ import annotations

from typing import final

from fairseq2.models.wav2vec2 import Wav2Vec2Model
from fairseq2.models.wav2vec2.feature_extractor import (
    Wav2Vec2FeatureConv1d,
    Wav2Vec2FeatureExtractionLayer,
)
from fairseq2.models.wav2vec2.position_encoder import Wav2Vec2PositionalConv1d
from torch import Tensor
from torch.nn import Module
from typing_extensions import override

from eqssl_speech.models.wav2vec2.contrast import contrast, sample_distractors
from eqssl_speech.models.wav2vec2.convolutions import (
    ChannelsLastFeatureConv1d,
    ChannelsLastPositionalConv1d,
    NormalizedFeatureExtractionLayer,
)


def accelerate(model: Module, *, twice_differentiable: bool = False) -> Module:
    """Let a model of fairseq2's wav2vec 2.0 families compute faster.

    Some modules get another class; parameters, buffers and their names stay, and the same random numbers are drawn in
    the same order.

    :param model: Changed in place, before it is wrapped for distributed training. What has no fast counterpart stays as
        it is.
    :param twice_differentiable: Leaves out what can be differentiated only once.
    """
    for module in model.modules():
        kls = _find_fast_class(module)

        if kls is not None and not (twice_differentiable and kls is ChannelsLastFeatureConv1d):
            module.__class__ = kls

    return model


def _find_fast_class(module: Module) -> type[Module] | None:
    # Of exactly these classes: what others derive from them may compute something else.
    if type(module) is Wav2Vec2Model:
        return FastWav2Vec2Model

    if type(module) is Wav2Vec2FeatureExtractionLayer:
        kls = NormalizedFeatureExtractionLayer
        return kls if kls.can_replace(module) else None

    if type(module) is Wav2Vec2FeatureConv1d:
        return ChannelsLastFeatureConv1d if ChannelsLastFeatureConv1d.can_replace(module) else None

    if type(module) is Wav2Vec2PositionalConv1d:
        return ChannelsLastPositionalConv1d

    return None


@final
class FastWav2Vec2Model(Wav2Vec2Model):  # type: ignore[misc]
    """Hands positions instead of vectors from the sampling of distractors to the logits."""

    @override
    def _sample_distractors(self, targets: Tensor) -> Tensor:
        batch_size, num_targets, _ = targets.shape

        return sample_distractors(batch_size, num_targets, self.num_distractors, targets.device)

    @override
    def _compute_logits(self, seqs: Tensor, targets: Tensor, distractors: Tensor) -> Tensor:
        return contrast(seqs, targets, distractors, self.logit_temp)
