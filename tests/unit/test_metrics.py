"""The values of each source are means over its targets, apart from those of the others."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from fairseq2.metrics import MetricBag

from eqssl_speech.criteria.base import CriterionOutput
from eqssl_speech.criteria.metrics import CodeShare, SourceMetrics, macro_average, split_by_source

NUM_CODES = 8

# One is the end of another.
SOURCES = ("ru", "ru-festvox", "x-ru")


def make_output(
    *, num_targets: int, loss_bits: float, num_correct: int = 0, codes: tuple[int, ...] = (0,)
) -> CriterionOutput:
    counts = torch.zeros(NUM_CODES)
    counts[list(codes)] = 3.0

    return CriterionOutput(
        loss=torch.tensor(99.0, requires_grad=True),
        num_targets=num_targets,
        main_loss=torch.tensor(loss_bits * math.log(2)),
        num_correct=torch.tensor(num_correct),
        code_perplexity=torch.tensor(float(num_targets)),
        prob_perplexity=torch.tensor(2.0 * num_targets),
        code_counts=counts,
    )


def make_bag() -> tuple[MetricBag, dict[str, SourceMetrics]]:
    bag = MetricBag(torch.device("cpu"))
    metrics = {name: SourceMetrics(bag, name) for name in SOURCES}

    for m in metrics.values():
        m.add(NUM_CODES)

    return bag, metrics


def compute(bag: MetricBag) -> dict[str, object]:
    return {name: metric.compute() for name, metric in bag.metrics.items()}


def test_values_are_means_over_targets_in_bits() -> None:
    bag, metrics = make_bag()

    ru = metrics["ru"]
    ru.update_plain(make_output(num_targets=10, loss_bits=5.0, num_correct=1, codes=(0, 1)))
    ru.update_plain(make_output(num_targets=30, loss_bits=3.0, num_correct=12, codes=(1, 5)))
    ru.update_adapted(make_output(num_targets=20, loss_bits=2.0))
    ru.update_adapted(make_output(num_targets=60, loss_bits=4.0))

    row = split_by_source(compute(bag), SOURCES)["ru"]

    assert row == pytest.approx(
        {
            "plain_loss": 3.5,
            "adapted_loss": 3.5,
            "adaptation_gain": 0.0,
            "accuracy": 13 / 40,
            "code_perplexity": (10 * 10 + 30 * 30) / 40,
            "prob_perplexity": 2 * (10 * 10 + 30 * 30) / 40,
            "code_share": 3 / 8,
            "utterances": 0.0,
            "audio_seconds": 0.0,
        },
        abs=1e-6,
    )


def test_gain_is_positive_where_adapting_lowers_the_loss() -> None:
    bag, metrics = make_bag()

    metrics["ru"].update_plain(make_output(num_targets=10, loss_bits=5.0))
    metrics["ru"].update_adapted(make_output(num_targets=10, loss_bits=3.75))

    row = split_by_source(compute(bag), SOURCES)["ru"]

    assert row["adaptation_gain"] == pytest.approx(1.25, abs=1e-6)


def test_sources_whose_names_are_alike_are_kept_apart() -> None:
    bag, metrics = make_bag()

    for i, name in enumerate(SOURCES, start=1):
        metrics[name].update_plain(make_output(num_targets=10, loss_bits=float(i)))
        metrics[name].update_audio(i, 10.0 * i)

    values = compute(bag) | {"grad_norm": 1.5}
    rows = split_by_source(values, SOURCES)

    assert values == {"grad_norm": 1.5}
    assert list(rows) == list(SOURCES)

    for i, name in enumerate(SOURCES, start=1):
        assert rows[name]["plain_loss"] == pytest.approx(i, abs=1e-6)
        assert rows[name]["utterances"] == i
        assert rows[name]["audio_seconds"] == 10.0 * i


def test_source_without_a_batch_has_only_its_totals() -> None:
    bag, metrics = make_bag()

    metrics["ru"].update_plain(make_output(num_targets=10, loss_bits=5.0))
    metrics["x-ru"].update_audio(4, 6.5)

    rows = split_by_source(compute(bag), SOURCES)

    assert "plain_loss" in rows["ru"]
    assert rows["ru-festvox"] == {"utterances": 0.0, "audio_seconds": 0.0}
    assert rows["x-ru"] == {"utterances": 4.0, "audio_seconds": 6.5}


def test_episodes_that_are_not_finite_are_shown_only_where_there_are_some() -> None:
    bag, metrics = make_bag()

    metrics["ru"].lost.update("non_finite")
    metrics["ru"].lost.update("non_finite")

    rows = split_by_source(compute(bag), SOURCES)

    assert rows["ru"]["non_finite"] == 2.0
    assert "non_finite" not in rows["x-ru"]


def test_names_tell_the_trainer_which_metrics_outlive_a_reset() -> None:
    bag, _ = make_bag()

    totals = {name for name in bag.metrics if name.startswith("total_")}

    assert totals == {
        f"total_{name}@{source}"
        for name in ("utterances", "audio_seconds", "non_finite")
        for source in SOURCES
    }
    assert "code_share@ru" in bag.metrics


def test_metrics_of_two_ranks_merge_to_those_of_one() -> None:
    outputs = [
        make_output(num_targets=10, loss_bits=5.0, num_correct=1, codes=(0, 1)),
        make_output(num_targets=30, loss_bits=3.0, num_correct=12, codes=(1, 5)),
    ]

    one, one_metrics = make_bag()
    ranks = [make_bag(), make_bag()]

    for output, (_, metrics) in zip(outputs, ranks):
        for m in (one_metrics["ru"], metrics["ru"]):
            m.update_plain(output)
            m.update_adapted(output)
            m.update_audio(2, 3.5)

    (first, _), (second, _) = ranks

    for name, metric in first.metrics.items():
        metric.merge_state([second.metrics[name]])

    expected = split_by_source(compute(one), SOURCES)["ru"]

    assert split_by_source(compute(first), SOURCES)["ru"] == pytest.approx(expected)


def test_code_share_counts_each_code_once_over_batches_and_ranks() -> None:
    ranks = [CodeShare(NUM_CODES) for _ in range(3)]

    ranks[0].update(torch.tensor([5.0, 1, 0, 0, 0, 0, 0, 0]))
    ranks[0].update(torch.tensor([2.0, 0, 1, 0, 0, 0, 0, 0]))
    ranks[1].update(torch.tensor([0.0, 1, 0, 7, 0, 0, 0, 0]))

    assert [float(r.compute()) for r in ranks] == [3 / 8, 2 / 8, 0.0]

    others = [deepcopy(r.counts) for r in ranks[1:]]
    ranks[0].merge_state(ranks[1:])

    # The codes of both, not the mean of the shares.
    assert float(ranks[0].compute()) == 4 / 8
    assert all(torch.equal(r.counts, o) for r, o in zip(ranks[1:], others))

    # Still of use after that.
    assert float(ranks[0].update(torch.ones(NUM_CODES)).compute()) == 1.0


def test_code_share_takes_nearly_one_hot_sums_for_what_they_are() -> None:
    share = CodeShare(NUM_CODES).update(
        torch.tensor([0.9999999, 1e-6, -1e-6, 0, 2.0000002, 0, 0, 0])
    )

    assert float(share.compute()) == 2 / 8


def test_code_share_is_saved_loaded_and_reset() -> None:
    share = CodeShare(NUM_CODES).update(torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0]))

    loaded = CodeShare(NUM_CODES)
    loaded.load_state_dict(share.state_dict())

    assert float(loaded.compute()) == 2 / 8

    share.reset()

    assert float(share.compute()) == 0.0
    assert float(loaded.compute()) == 2 / 8


def test_macro_average_weighs_sources_alike_and_leaves_out_those_without() -> None:
    rows = {"a": {"loss": 1.0}, "b": {"loss": 4.0, "gain": 0.5}, "c": {}}

    assert macro_average(rows, "loss") == 2.5
    assert macro_average(rows, "gain") == 0.5
    assert macro_average(rows, "accuracy") is None


def test_means_and_counts_of_nothing_are_zero_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bag, metrics = make_bag()

    metrics["ru"].update_plain(make_output(num_targets=4, loss_bits=2.0))

    values = {name: metric.compute() for name, metric in bag.metrics.items()}

    assert float(values["plain_loss@ru"]) == pytest.approx(2.0)
    assert float(values["accuracy@ru"]) == 0.0
    assert float(values["plain_loss@x-ru"]) == 0.0
    assert not caplog.records
