"""``eqssl`` whose second process meets bad episodes of one source that the first does not.

    lost_episodes_worker.py KIND ARGUMENT...

KIND is `numbers` (three of its episodes go wrong) or `dead` (it cannot read the source). Started by torchrun; the
arguments are those of ``eqssl``.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any

import eqssl_speech  # noqa: F401  # isort: skip  # Before fairseq2, as it makes libsndfile findable.

import fairseq2.recipe.cli  # noqa: F401  # Else importing the trainer first is circular.

from eqssl_speech.cli import main
from eqssl_speech.criteria.base import CriterionOutput
from eqssl_speech.criteria.wav2vec2 import Wav2Vec2Criterion
from eqssl_speech.data.loading import UtteranceReader, Utterances
from eqssl_speech.tasks.pretrain.episode_loss import EpisodeLoss, EpisodeResult

SOURCE = "ru-festvox"

FACTORS = {(1, 2): 1e4, (3, 1): float("nan"), (4, 2): float("nan")}
"""By what a loss is multiplied, by the number of the episode and of the batch in it, both from 1: the inner step of one
episode explodes, the loss of another is not finite at theta, and that of a third is not after the inner step."""


def spoil_losses() -> None:
    start, compute = EpisodeLoss.__call__, Wav2Vec2Criterion.__call__
    episode_nr, batch_nr = 0, 0

    def start_anew(*args: Any) -> EpisodeResult:
        nonlocal episode_nr, batch_nr
        episode_nr, batch_nr = episode_nr + 1, 0

        return start(*args)

    def compute_or_spoil(self: Any, model: Any, batch: Any) -> CriterionOutput:
        nonlocal batch_nr
        batch_nr += 1

        output = compute(self, model, batch)
        factor = FACTORS.get((episode_nr, batch_nr), 1.0) if model.training else 1.0

        return replace(output, loss=output.loss * factor)

    EpisodeLoss.__call__ = start_anew  # type: ignore[method-assign]
    Wav2Vec2Criterion.__call__ = compute_or_spoil  # type: ignore[method-assign]


def lose_source() -> None:
    read = UtteranceReader.read

    def read_or_fail(self: Any, utterances: Utterances, *args: Any, **kwargs: Any) -> Any:
        if utterances.source_name == SOURCE:
            return None

        return read(self, utterances, *args, **kwargs)

    UtteranceReader.read = read_or_fail  # type: ignore[method-assign]


if __name__ == "__main__":
    kind = sys.argv.pop(1)

    if os.environ["RANK"] == "1":
        if kind == "dead":
            lose_source()
        else:
            spoil_losses()

    sys.exit(main())
