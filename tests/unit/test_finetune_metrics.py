"""What a validation says does not depend on how its utterances were shared out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torcheval.metrics.toolkit import clone_metric

from eqssl_speech.criteria.group_weights import GroupWeightingSection, GroupWeights
from eqssl_speech.decoding.error_rates import ErrorCounts
from eqssl_speech.tasks.finetune.metrics import (
    Examples,
    UtteranceResult,
    UtteranceTable,
    summarize,
)
from eqssl_speech.tasks.finetune.weighting import GroupWeightsState


def make_results(count: int, seed: int = 3) -> list[UtteranceResult]:
    rng = np.random.default_rng(seed)

    def counts() -> ErrorCounts:
        return ErrorCounts(*(int(n) for n in rng.integers(0, 9, 4)))

    return [
        UtteranceResult(
            index=i,
            loss=float(rng.uniform(0, 500)),
            num_labels=int(rng.integers(1, 80)),
            num_frames=int(rng.integers(80, 400)),
            num_blank_frames=int(rng.integers(0, 80)),
            num_hypothesis_labels=int(rng.integers(0, 90)),
            words=counts(),
            chars=counts(),
        )
        for i in range(count)
    ]


def test_row_holds_all_of_a_result() -> None:
    for result in make_results(20):
        assert UtteranceResult.from_tensor(result.to_tensor()) == result


@pytest.mark.parametrize("num_ranks", [2, 3, 5])
def test_ranks_together_give_the_table_of_one_process(num_ranks: int) -> None:
    results = make_results(17)

    tables = [UtteranceTable() for _ in range(num_ranks)]

    # Longest first and dealt out in turn, as the readers do it; the last ranks have fewer.
    order = sorted(results, key=lambda r: -r.num_frames)
    for number, result in enumerate(order):
        tables[number % num_ranks].update(result)

    merged = clone_metric(tables[0]).merge_state(tables[1:]).compute()

    assert merged == results
    assert summarize(merged) == summarize(results)


def test_values_are_those_of_all_utterances_together() -> None:
    results = make_results(5)
    row = summarize(results)

    words = [r.words for r in results]
    wrong = sum(w.num_errors for w in words)

    assert row["wer"] == pytest.approx(100 * wrong / sum(w.num_reference for w in words))
    assert row["ctc_loss"] == pytest.approx(
        sum(r.loss for r in results) / sum(r.num_labels for r in results)
    )
    assert 0 < row["blank_share"] < 1
    assert "zero_loss" not in row


def test_impossible_utterances_are_counted_and_not_in_the_loss() -> None:
    results = make_results(4)

    impossible = UtteranceResult(
        index=9, loss=math.inf, num_labels=50, num_frames=20, num_blank_frames=3,
        num_hypothesis_labels=4, words=ErrorCounts(1), chars=ErrorCounts(2),
    )  # fmt: skip

    row = summarize([*results, impossible])

    assert row["zero_loss"] == 1
    assert row["ctc_loss"] == summarize(results)["ctc_loss"]
    assert row["wer"] != summarize(results)["wer"]


def test_what_a_diverged_model_gives_is_not_a_loss_of_zero() -> None:
    good, *others = make_results(4)
    diverged = [replace(r, loss=math.nan) for r in others]

    row = summarize([good, *diverged])

    assert row["ctc_loss"] == pytest.approx(good.loss / good.num_labels)
    assert row["non_finite"] == 3
    assert "zero_loss" not in row
    assert math.isnan(summarize(diverged)["ctc_loss"])


def test_utterances_without_labels_count_as_errors_and_have_no_loss_a_label() -> None:
    (result,) = make_results(1)
    unknown = replace(
        result, num_labels=0, words=ErrorCounts(deletions=1), chars=ErrorCounts(deletions=5)
    )

    row = summarize([unknown])

    assert math.isnan(row["ctc_loss"])
    assert (row["wer"], row["cer"]) == (100.0, 100.0)


def test_perfect_model_has_rates_of_zero() -> None:
    result = UtteranceResult(
        index=0, loss=0.1, num_labels=5, num_frames=30, num_blank_frames=20,
        num_hypothesis_labels=5, words=ErrorCounts(hits=2), chars=ErrorCounts(hits=9),
    )  # fmt: skip

    assert (summarize([result])["wer"], summarize([result])["cer"]) == (0.0, 0.0)


def test_examples_of_all_scripts_come_through() -> None:
    first, second = Examples(), Examples()

    first.update(7, "если б я")
    second.update(2, "è già 你好")
    second.update(3, "")

    assert first.merge_state([second]).compute() == {7: "если б я", 2: "è già 你好", 3: ""}


def test_group_weights_survive_a_checkpoint() -> None:
    groups = ["a", "b"]
    section = GroupWeightingSection(method="ctc_dro", step_size=0.01)

    weights = GroupWeights(groups, section)
    weights.observe([("a", 120.0)])
    weights.observe([("b", 30.0)])
    weights.observe([("b", 70.0)])

    metric = GroupWeightsState(2)
    metric.update(weights)

    loaded = GroupWeightsState(2)
    loaded.load_state_dict(metric.state_dict())

    # As a rank does that has not been there before.
    loaded.reset()

    restored = GroupWeights(groups, section)
    loaded.restore(restored, groups)

    # Half of the next round has been seen already, and must count.
    for w in (weights, restored):
        w.observe([("a", 90.0)])

    assert restored.weights == weights.weights
    assert restored.num_updates == weights.num_updates == 2
    assert weights.weights["a"] > 0.5


def test_state_without_a_checkpoint_leaves_the_weights_alone() -> None:
    weights = GroupWeights(["a", "b"], GroupWeightingSection(method="ctc_dro"))

    GroupWeightsState(2).restore(weights, ["a", "b"])

    assert weights.weights == {"a": 0.5, "b": 0.5}
    assert torch.equal(GroupWeightsState(2).compute(), torch.zeros(2, dtype=torch.float64))
