"""The weights of beam search are those with the fewest errors, and everything that was tried is reported."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eqssl_speech.decoding.beam import BeamHypothesis, BeamSearch
from eqssl_speech.decoding.lm import build_ngram
from eqssl_speech.decoding.tuning import LM_WEIGHTS, WORD_SCORES, tune

NUM_WORDS = 200

REFERENCES = [" ".join(["ja"] * NUM_WORDS)] * 3

LOG_PROBS = [torch.zeros(n, 2) for n in (4, 5, 6)]


class FakeSearch:
    """Errs as often as a function of the weights says."""

    def __init__(
        self, count: Callable[[float, float], float], weights: tuple[float, float] = (9, 9)
    ) -> None:
        self._count = count
        self._weights = weights

    def with_weights(self, *, lm_weight: float, word_score: float) -> FakeSearch:
        return FakeSearch(self._count, (lm_weight, word_score))

    def __call__(self, log_probs: Tensor) -> list[BeamHypothesis]:
        return [self._hypothesis(round(self._count(*self._weights)))]

    def find_best_path(self, log_probs: Tensor) -> BeamHypothesis:
        return self._hypothesis(NUM_WORDS)

    def _hypothesis(self, num_errors: int) -> BeamHypothesis:
        words = ["ja"] * (NUM_WORDS - num_errors) + ["na"] * num_errors

        return BeamHypothesis((), (), 0.0, (), " ".join(words))


def run(count: Callable[[float, float], float], **options: Any) -> Any:
    return tune(FakeSearch(count), LOG_PROBS, REFERENCES, **options)


@pytest.mark.parametrize("seed", range(10))
def test_weights_are_found_to_the_last_step_of_the_refinement(seed: int) -> None:
    generator = random.Random(seed)
    lm_weight, word_score = generator.uniform(0, 2), generator.uniform(-1, 2)

    found = run(
        lambda x, y: 40 * abs(x - lm_weight) + 20 * abs(y - word_score), num_refinements=3
    ).best

    # Steps of 0.5 and 1, halved three times; rounding to whole errors hides 0.025 and 0.05.
    assert found.lm_weight == pytest.approx(lm_weight, abs=0.0625 + 0.025)
    assert found.word_score == pytest.approx(word_score, abs=0.125 + 0.05)


def test_refinement_goes_beyond_the_grid_but_not_below_no_weight() -> None:
    beyond = run(lambda x, y: 30 * abs(x - 2.6) + 10 * abs(y + 1.4)).best
    below = run(lambda x, y: 30 * (x + 1.0) + 10 * abs(y))

    assert beyond.lm_weight > 2.0
    assert beyond.word_score < -1.0
    assert below.best.lm_weight == 0.0
    assert all(trial.lm_weight >= 0.0 for trial in below.trials)


def test_among_equals_the_smallest_weights_are_chosen() -> None:
    assert (run(lambda x, y: 7).best.lm_weight, run(lambda x, y: 7).best.word_score) == (0.0, 0.0)

    best = run(lambda x, y: 5 if x >= 1.0 and abs(y) >= 1.0 else 9, num_refinements=0).best

    assert (best.lm_weight, best.word_score) == (1.0, -1.0)


def test_everything_is_tried_once_and_reported() -> None:
    tuning = run(lambda x, y: 10 * abs(x - 0.9) + 5 * abs(y - 0.2))

    weights = [(trial.lm_weight, trial.word_score) for trial in tuning.trials]

    assert len(weights) == len(set(weights)) > len(LM_WEIGHTS) * len(WORD_SCORES)
    assert set(weights) >= {(x, y) for x in LM_WEIGHTS for y in WORD_SCORES}
    assert tuning.best in tuning.trials
    assert all(trial.duration_s > 0.0 for trial in tuning.trials)
    assert all(trial.words.num_reference == 3 * NUM_WORDS for trial in tuning.trials)
    assert tuning.best_path.words.rate == 1.0

    rows = tuning.list_rows()
    assert len(rows) == 2 + len(tuning.trials)
    assert rows[1][:5] == ["greedy", "", "", "100.00%", f"{200 / 599:.2%}"]
    assert rows[2][1:4] == [
        f"{tuning.best.lm_weight:g}",
        f"{tuning.best.word_score:g}",
        f"{tuning.best.words.rate:.2%}",
    ]


def test_progress_never_goes_back_and_stays_within_its_total() -> None:
    seen: list[tuple[int, int]] = []

    tuning = run(lambda x, y: x, on_progress=lambda done, total: seen.append((done, total)))

    assert [done for done, _ in seen] == list(range(1, 3 * len(tuning.trials) + 1))
    assert {total for _, total in seen} == {3 * (20 + 2 * 8)}


def test_grid_of_one_is_only_measured() -> None:
    tuning = run(lambda x, y: x, lm_weights=[0.7], word_scores=[0.1])

    assert [(trial.lm_weight, trial.word_score) for trial in tuning.trials] == [(0.7, 0.1)]


@pytest.mark.parametrize(
    ("log_probs", "references", "options"),
    [
        ([], [], {}),
        (LOG_PROBS, REFERENCES[:2], {}),
        (LOG_PROBS, REFERENCES, {"lm_weights": []}),
        (LOG_PROBS, REFERENCES, {"word_scores": []}),
    ],
)
def test_nothing_to_tune_on_is_refused(
    log_probs: list[Tensor], references: list[str], options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="must"):
        tune(FakeSearch(lambda x, y: 0), log_probs, references, **options)


def test_tuned_beam_search_is_better_than_the_best_path(tmp_path: Path) -> None:
    vocabulary = ("<pad>", "▁", *"adehinrstu")
    generator = random.Random(0)
    words = ["der", "die", "das", "haus", "hund", "ist", "ein", "er"]
    sentences = [generator.choices(words, k=generator.randint(2, 4)) for _ in range(40)]
    references = [" ".join(sentence) for sentence in sentences[:20]]

    spoken, torch_generator = [], torch.Generator().manual_seed(0)
    for text in references:
        path = [i for c in text for i in (vocabulary.index("▁" if c == " " else c), 0)]
        logits = 1.3 * torch.randn(len(path), len(vocabulary), generator=torch_generator)
        logits[torch.arange(len(path)), torch.tensor(path)] += 4.0
        spoken.append(logits.log_softmax(dim=-1))

    build_ngram(sentences[20:], tmp_path / "lm.arpa")
    search = BeamSearch(vocabulary, lm=tmp_path / "lm.arpa", beam_size=10)

    tuning = tune(search, spoken, references, lm_weights=[0.0, 1.0], word_scores=[0.0, 1.0])

    assert tuning.best.words.rate < 0.5 * tuning.best_path.words.rate
    assert tuning.best.words.num_errors == min(t.words.num_errors for t in tuning.trials)
    assert tuning.best.lm_weight > 0.0
