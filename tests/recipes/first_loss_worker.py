"""Pre-trains as a user does, and writes down what the losses were computed of.

    python tests/recipes/first_loss_worker.py FILE ARGUMENTS OF eqssl...

FILE holds a list, of each loss of training that is computed of the first parameters: it, and what was drawn for it.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

import eqssl_speech  # noqa: F401  # Before fairseq2, as it makes libsndfile findable.
from eqssl_speech.cli import main
from eqssl_speech.criteria.wav2vec2 import Wav2Vec2Criterion
from eqssl_speech.models.wav2vec2 import quantizer
from eqssl_speech.models.wav2vec2.fast import FastWav2Vec2Model


def record(file: str) -> None:
    """Have each loss of training recorded that is computed of the first parameters."""
    compute = Wav2Vec2Criterion.__call__
    contrast = FastWav2Vec2Model.quantize_and_contrast
    sample = FastWav2Vec2Model._sample_distractors
    draw = quantizer.gumbel_softmax

    losses: list[dict[str, Any]] = []
    drawn: dict[str, Any] = {}
    first: list[torch.Tensor] = []

    def sample_distractors(self: Any, targets: Any) -> Any:
        drawn["distractors"] = sample(self, targets)
        return drawn["distractors"]

    def gumbel_softmax(*args: Any, **kwargs: Any) -> Any:
        codes = draw(*args, **kwargs)
        drawn["codes"] = codes.detach().clone()
        return codes

    def criterion(self: Any, model: Any, batch: Any) -> Any:
        output = compute(self, model, batch)

        if model.training:
            weights = model.final_proj.weight.detach().clone()
            first[:] = first or [weights]

            if torch.equal(weights, first[0]):
                loss, contrastive = output.loss.item(), output.main_loss.item()
                losses.append(
                    drawn | {"waveforms": batch.seqs, "loss": loss, "contrastive": contrastive}
                )
                torch.save(losses, file)

        return output

    def quantize_and_contrast(self: Any, features: Any) -> Any:
        drawn["mask"] = features.temporal_mask
        return contrast(self, features)

    Wav2Vec2Criterion.__call__ = criterion  # type: ignore[method-assign]
    FastWav2Vec2Model.quantize_and_contrast = quantize_and_contrast  # type: ignore[method-assign]
    FastWav2Vec2Model._sample_distractors = sample_distractors  # type: ignore[method-assign]
    quantizer.gumbel_softmax = gumbel_softmax  # type: ignore[assignment]


if __name__ == "__main__":
    record(sys.argv[1])

    sys.exit(main(sys.argv[2:]))
