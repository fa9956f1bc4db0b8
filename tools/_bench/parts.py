"""The parts of a training step of wav2vec 2.0, each fed with what it meets in a whole step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from fairseq2.models.wav2vec2 import Wav2Vec2Model
from fairseq2.models.wav2vec2.masker import Wav2Vec2Masker
from fairseq2.models.wav2vec2.model import Wav2Vec2Features
from fairseq2.nn import BatchLayout
from torch import Tensor

from .sides import Side


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the parts of a model meet in one step; nothing of it is part of a graph."""

    waveforms: Tensor
    """*Shape:* ``(N, T)``."""

    layout: BatchLayout
    """Of the waveforms."""

    features: Wav2Vec2Features
    """What the frontend makes of them: the encoder's input, the quantizer's, and the feature extractor's output."""

    encoded: Tensor
    """The encoder's output. *Shape:* ``(N, S, M)``."""

    predictions: Tensor
    """The masked part of it, projected. *Shape:* ``(N, S_msk, D)``."""

    targets: Tensor
    """The quantized targets, projected. *Shape:* ``(N, S_msk, D)``."""


def record_step(side: Side, seed: int) -> Step:
    """Run a forward pass and keep what each part of it gets.

    Each side has a record of its own: equal numbers, in the order in memory that its own model gives them.
    """
    model = side.model

    side.begin(seed)

    with side.autocast():
        features = model.run_frontend(side.waveforms, side.layout)
        encoded = model.encoder(features.seqs, features.seqs_layout)
        predictions = model.final_proj(
            Wav2Vec2Masker.extract_masked_elements(encoded, features.temporal_mask)
        )
        output = model.quantize_and_contrast(replace(features, seqs=encoded))

    return Step(
        waveforms=side.waveforms,
        layout=side.layout,
        features=replace(
            features,
            seqs=features.seqs.detach(),
            targets=features.targets.detach(),
            raw=features.raw.detach(),
        ),
        encoded=encoded.detach(),
        predictions=predictions.detach(),
        targets=output.quantized_targets.detach(),
    )


Part = Callable[[Wav2Vec2Model, Step], tuple[Tensor, ...]]
"""Runs a part and returns what the backward pass starts from."""


def extract(model: Wav2Vec2Model, step: Step) -> tuple[Tensor, ...]:
    """Run the convolutions. Waveforms have no gradient, as in training."""
    extractor = model.encoder_frontend.feature_extractor

    assert extractor is not None

    seqs, _ = extractor(step.waveforms, step.layout)

    return (seqs,)


def run_frontend_rest(model: Wav2Vec2Model, step: Step) -> tuple[Tensor, ...]:
    """Run what follows the convolutions: norm, projection, mask, position encoder, and the choice of the targets."""
    frontend, features = model.encoder_frontend, step.features

    extractor, frontend.feature_extractor = frontend.feature_extractor, None

    try:
        features = model.run_frontend(_leaf(features.raw), features.seqs_layout)
    finally:
        frontend.feature_extractor = extractor

    return features.seqs, features.targets, features.raw


def encode(model: Wav2Vec2Model, step: Step) -> tuple[Tensor, ...]:
    """Run the Transformer."""
    return (model.encoder(_leaf(step.features.seqs), step.features.seqs_layout),)


def quantize(model: Wav2Vec2Model, step: Step) -> tuple[Tensor, ...]:
    """Quantize the targets."""
    output = model.quantizer(_leaf(step.features.targets))

    return output.quantized_vectors, output.prob_perplexity


def contrast(model: Wav2Vec2Model, step: Step) -> tuple[Tensor, ...]:
    """Draw distractors, compute logits and cross entropy; without the projections before them."""
    predictions, targets = _leaf(step.predictions), _leaf(step.targets)

    distractors = model._sample_distractors(targets)
    logits = model._compute_logits(predictions, targets, distractors)

    return (model.compute_contrastive_loss(logits),)


def quantize_and_contrast(model: Wav2Vec2Model, step: Step) -> tuple[Tensor, ...]:
    """Run all that follows the encoder, with the projections: from its output and the targets to the two losses."""
    features = replace(
        step.features, seqs=_leaf(step.encoded), targets=_leaf(step.features.targets)
    )

    output = model.quantize_and_contrast(features)
    logits, perplexity = output.logits, output.quantizer_output.prob_perplexity

    return (
        model.compute_contrastive_loss(logits),
        model.compute_diversity_loss(logits, perplexity),
    )


def run_whole(model: Wav2Vec2Model, step: Step) -> tuple[Tensor, ...]:
    """Run everything, up to the mean loss of a target."""
    loss, output = model(step.waveforms, step.layout)

    return (loss.aggregate / output.num_targets,)


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


CONTRAST: Final = "contrast"
QUANTIZER_AND_CONTRAST: Final = "quantizer + contrast"
WHOLE_STEP: Final = "whole step"

PARTS: Final[dict[str, Part]] = {
    "feature extractor": extract,
    "frontend rest": run_frontend_rest,
    "encoder": encode,
    "quantizer": quantize,
    CONTRAST: contrast,
    QUANTIZER_AND_CONTRAST: quantize_and_contrast,
    WHOLE_STEP: run_whole,
}
