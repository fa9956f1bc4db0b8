"""Comparison of two evaluations: on common utterances, with intervals of the paired difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from spelled_corpus import make_spelled_corpus
from spelled_evaluation import BOOTSTRAP, run

from eqssl_speech.error import InputError
from eqssl_speech.tasks.evaluate.comparison import compare


def test_comparison_with_itself_is_no_difference(tmp_path: Path) -> None:
    make_spelled_corpus(tmp_path / "c")
    evaluation = run(tmp_path / "c")

    comparison = compare(
        evaluation.utterances, evaluation.utterances, evaluation.sources, BOOTSTRAP, Path("other")
    )

    for difference in (*comparison.wer.values(), *comparison.cer.values()):
        assert (difference.difference, difference.low, difference.high) == (0.0, 0.0, 0.0)

    assert comparison.cer["micro"].ours == evaluation.micro.cer.value
    assert comparison.wer["macro_sources"].ours == pytest.approx(evaluation.macro_sources.wer.value)
    assert comparison.wer["macro_languages"].theirs == pytest.approx(
        evaluation.macro_languages.wer.value
    )
    assert comparison.num_utterances == len(evaluation.utterances)


def test_paired_interval_is_narrower_than_those_of_the_two(tmp_path: Path) -> None:
    make_spelled_corpus(tmp_path / "c", num_utterances=40)
    theirs = run(tmp_path / "c")

    # Ours: as theirs, but one more letter right in every second utterance.
    ours = [
        u
        if i % 2 or not u.hypothesis
        else replace(u, chars=replace(u.chars, insertions=max(0, u.chars.insertions - 1)))
        for i, u in enumerate(theirs.utterances)
    ]

    comparison = compare(ours, theirs.utterances, theirs.sources, BOOTSTRAP, Path("other"))
    difference = comparison.cer["micro"]

    assert difference.difference < 0
    assert difference.low <= difference.difference <= difference.high < 0
    assert difference.better_share == 1.0

    assert theirs.micro.cer.high is not None
    assert theirs.micro.cer.low is not None
    assert difference.high - difference.low < 0.5 * (theirs.micro.cer.high - theirs.micro.cer.low)

    swapped = compare(theirs.utterances, ours, theirs.sources, BOOTSTRAP, Path("other"))

    assert swapped.cer["micro"].difference == pytest.approx(-difference.difference)
    assert swapped.cer["micro"].better_share == 0.0


def test_comparison_is_on_common_utterances_with_the_same_reference(tmp_path: Path) -> None:
    make_spelled_corpus(tmp_path / "c")
    evaluation = run(tmp_path / "c")

    ours = list(evaluation.utterances)
    other = [replace(ours[0], reference="another"), *ours[5:]]

    comparison = compare(ours, other, evaluation.sources, BOOTSTRAP, Path("other"))

    assert comparison.num_utterances == len(ours) - 5
    assert comparison.num_left_out == 6

    with pytest.raises(InputError, match="no utterance of this evaluation"):
        compare(ours, other[:1], evaluation.sources, BOOTSTRAP, Path("other"))
