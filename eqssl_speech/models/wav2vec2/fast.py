"""The same wav2vec 2.0 or HuBERT in less time and memory: the same parameters, checkpoints and numbers."""

from __future__ import annotations

from typing import Final, final

from fairseq2.models.transformer import TorchSDPA
from fairseq2.models.wav2vec2 import Wav2Vec2Model
from fairseq2.models.wav2vec2.feature_extractor import (
    Wav2Vec2FeatureConv1d,
    Wav2Vec2FeatureExtractionLayer,
)
from fairseq2.models.wav2vec2.masker import StandardWav2Vec2Masker
from fairseq2.models.wav2vec2.model import Wav2Vec2Features, Wav2Vec2Output
from fairseq2.models.wav2vec2.position_encoder import Wav2Vec2PositionalConv1d
from fairseq2.nn import BatchLayout
from torch import Tensor
from torch.nn import Module
from typing_extensions import override

from eqssl_speech.models.wav2vec2.attention import DroppedSDPA
from eqssl_speech.models.wav2vec2.contrast import contrast, sample_distractors
from eqssl_speech.models.wav2vec2.convolutions import (
    ChannelsLastFeatureConv1d,
    ChannelsLastPositionalConv1d,
    NormalizedFeatureExtractionLayer,
)
from eqssl_speech.models.wav2vec2.masking import MaskedFeatures, Masking, pick_frames

_DIFFERENTIABLE_ONCE: Final = (ChannelsLastFeatureConv1d, DroppedSDPA)


def accelerate(model: Module, *, twice_differentiable: bool = False) -> Module:
    """Let a model of fairseq2's wav2vec 2.0 families, or a HuBERT, compute faster.

    Some modules get another class; parameters, buffers and their names stay, and the same random numbers are drawn in
    the same order. On a GPU the masks come from the generator of the processor instead, and nothing in a training step
    waits for the GPU.

    :param model: Changed in place, before it is wrapped for distributed training. What has no fast counterpart stays as
        it is.
    :param twice_differentiable: Leaves out what can be differentiated only once.
    """
    for module in model.modules():
        kls = _find_fast_class(module)

        if kls is not None and not (twice_differentiable and kls in _DIFFERENTIABLE_ONCE):
            module.__class__ = kls

    return model


def _find_fast_class(module: Module) -> type[Module] | None:
    # Of exactly these classes: what others derive from them may compute something else.
    if type(module) is Wav2Vec2Model:
        return FastWav2Vec2Model if type(module.masker) is StandardWav2Vec2Masker else None

    if type(module) is Wav2Vec2FeatureExtractionLayer:
        kls = NormalizedFeatureExtractionLayer
        return kls if kls.can_replace(module) else None

    if type(module) is Wav2Vec2FeatureConv1d:
        return ChannelsLastFeatureConv1d if ChannelsLastFeatureConv1d.can_replace(module) else None

    if type(module) is Wav2Vec2PositionalConv1d:
        return ChannelsLastPositionalConv1d

    if type(module) is TorchSDPA:
        return DroppedSDPA if DroppedSDPA.can_replace(module) else None

    return None


@final
class FastWav2Vec2Model(Wav2Vec2Model):  # type: ignore[misc]
    """Hands positions instead of vectors from the masks and the sampling of distractors to the logits."""

    @override
    def run_frontend(self, seqs: Tensor, seqs_layout: BatchLayout) -> MaskedFeatures:
        """Compute the input of the encoder and the targets, both in pre-training mode."""
        frontend = self.encoder_frontend

        seqs, seqs_layout, raw_features = frontend.extract_features(seqs, seqs_layout)

        targets = seqs if self.quantizer_encoder_grad else seqs.detach()

        if frontend.first_pass_dropout is not None:
            targets = frontend.first_pass_dropout(targets)

        masking = Masking(self.masker)  # type: ignore[arg-type]

        seqs, mask = frontend.process_features(seqs, seqs_layout, masking)  # type: ignore[arg-type]
        assert mask is not None

        targets = pick_frames(targets, masking.positions)

        return MaskedFeatures(seqs, seqs_layout, targets, mask, raw_features, masking.positions)

    @override
    def quantize_and_contrast(self, features: Wav2Vec2Features) -> Wav2Vec2Output:
        """Quantize the targets and compute the logits."""
        features = MaskedFeatures.of(features)

        seqs = self.final_proj(pick_frames(features.seqs, features.positions))

        quantizer_output = self.quantizer(features.targets)

        targets = self.final_target_proj(quantizer_output.quantized_vectors)

        distractors = self._sample_distractors(targets)

        return Wav2Vec2Output(
            logits=self._compute_logits(seqs, targets, distractors),
            quantized_targets=targets,
            num_targets=targets.size(0) * targets.size(1),
            temporal_mask=features.temporal_mask,
            quantizer_output=quantizer_output,
            encoder_output=features.seqs,
            encoder_output_layout=features.seqs_layout,
            raw_features=features.raw,
        )

    @override
    def _sample_distractors(self, targets: Tensor) -> Tensor:
        batch_size, num_targets, _ = targets.shape

        return sample_distractors(batch_size, num_targets, self.num_distractors, targets.device)

    @override
    def _compute_logits(self, seqs: Tensor, targets: Tensor, distractors: Tensor) -> Tensor:
        return contrast(seqs, targets, distractors, self.logit_temp)
