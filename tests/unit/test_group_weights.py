"""The group weights follow CTC-DRO's update (arXiv 2502.01777), over replicas and over a resume as well."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock

import pytest
import torch
from torch import Tensor

from eqssl_speech.criteria.group_weights import GroupWeightingSection, GroupWeights
from eqssl_speech.error import InputError

LOSSES = {"cs": 180.0, "nl": 240.0, "ru": 420.0}


def make(**settings: object) -> GroupWeights:
    return GroupWeights(list(LOSSES), make_section(**settings))


def make_section(**settings: object) -> GroupWeightingSection:
    return GroupWeightingSection(**({"method": "ctc_dro"} | settings))


def observe_all(weights: GroupWeights, losses: Mapping[str, float], num_times: int = 1) -> None:
    for _ in range(num_times):
        for group, loss in losses.items():
            weights.observe([(group, loss)])


def closed_form(
    weights: Mapping[str, float], losses: Mapping[str, float], step_size: float, smoothing: float
) -> dict[str, float]:
    grown = {g: q * math.exp(step_size * losses[g] / (q + smoothing)) for g, q in weights.items()}

    return {g: q / sum(grown.values()) for g, q in grown.items()}


def stationary(losses: Mapping[str, float], smoothing: float) -> dict[str, float]:
    """Solve max sum_g L_g log(q_g + alpha) over the simplex: groups leave from the lowest loss on."""
    active = dict(sorted(losses.items(), key=lambda item: -item[1]))

    while True:
        level = (1 + len(active) * smoothing) / sum(active.values())
        weights = {g: loss * level - smoothing for g, loss in active.items()}
        if min(weights.values()) >= 0.0:
            return {g: weights.get(g, 0.0) for g in losses}
        active.popitem()


def test_an_update_has_the_closed_form() -> None:
    weights = make(step_size=1e-3, smoothing=0.1)
    expected = weights.weights

    for round_nr in range(4):
        losses = {g: loss * (1 + 0.3 * round_nr) for g, loss in LOSSES.items()}
        expected = closed_form(expected, losses, 1e-3, 0.1)

        observe_all(weights, losses)

        # The least weight, 1e-10, is added each time.
        assert weights.weights == pytest.approx(expected, abs=1e-8)

    assert weights.weights["ru"] > 0.36  # it did move


def test_weights_wait_until_every_group_was_seen_and_average_its_batches() -> None:
    weights = make(step_size=1e-3, smoothing=0.5)

    for group, loss in [("ru", 500.0), ("cs", 180.0), ("ru", 340.0)]:
        weights.observe([(group, loss)])
        assert weights.weights == dict.fromkeys(LOSSES, 1 / 3)

    weights.observe([("nl", 240.0)])

    once = make(step_size=1e-3, smoothing=0.5)
    observe_all(once, LOSSES)

    assert weights.num_updates == 1
    assert weights.weights == pytest.approx(once.weights, rel=1e-14)


def test_the_batch_that_completes_a_round_is_weighed_with_the_new_weights() -> None:
    weights = make(step_size=1e-3)
    observe_all(weights, {"cs": 1.0, "nl": 1.0})

    weights.observe([("ru", 900.0)])

    assert weights.scale("ru") > 1.1


def test_a_round_starts_anew_after_an_update() -> None:
    weights = make(step_size=1e-3)
    observe_all(weights, LOSSES)
    after_one = weights.weights

    observe_all(weights, {"cs": 1.0, "nl": 1.0})

    assert weights.weights == after_one


def test_equal_losses_leave_the_weights_equal() -> None:
    weights = make(step_size=1e-2)

    observe_all(weights, dict.fromkeys(LOSSES, 300.0), num_times=50)

    assert list(weights.weights.values()) == pytest.approx([1 / 3] * 3, rel=1e-13)


@pytest.mark.parametrize("smoothing", [0.02, 0.1, 0.5, 1.0])
def test_weights_settle_at_the_stationary_point_of_the_smoothed_objective(smoothing: float) -> None:
    weights = make(step_size=4e-4, smoothing=smoothing)

    observe_all(weights, LOSSES, num_times=4000)

    expected = stationary(LOSSES, smoothing)
    # Geometric convergence; and a group that should have no weight keeps about 1e-10.
    assert weights.weights == pytest.approx(expected, abs=1e-6)
    # At 1, the easiest group ends without weight, and yet none has all of it.
    assert (min(expected.values()) == 0.0) == (smoothing == 1.0)
    assert max(expected.values()) < 0.95


def test_without_smoothing_one_group_ends_with_all_weight() -> None:
    weights = make(step_size=1e-4, smoothing=None)

    observe_all(weights, LOSSES, num_times=2000)

    assert weights.weights["ru"] > 1 - 1e-7


def test_large_smoothing_at_a_constant_step_size_is_plain_averaging() -> None:
    weights = make(step_size=1e-3, smoothing=1e9)

    observe_all(weights, LOSSES, num_times=20)

    assert weights.scale("cs") == pytest.approx(1.0, abs=1e-7)
    assert weights.scale("ru") == pytest.approx(1.0, abs=1e-7)


def test_large_smoothing_at_a_constant_ratio_to_the_step_size_is_group_dro() -> None:
    smoothed = make(step_size=1e-4 * 1e9, smoothing=1e9)
    group_dro = make(step_size=1e-4, smoothing=None)

    observe_all(smoothed, LOSSES, num_times=20)
    observe_all(group_dro, LOSSES, num_times=20)

    # Hedge: exponential in the sum of the losses.
    grown = {g: math.exp(1e-4 * 20 * loss) for g, loss in LOSSES.items()}
    expected = {g: value / sum(grown.values()) for g, value in grown.items()}

    assert group_dro.weights == pytest.approx(expected, abs=1e-8)
    assert smoothed.weights == pytest.approx(expected, abs=1e-7)


def test_weights_do_not_depend_on_the_order_of_the_groups() -> None:
    ours, theirs = (
        make(step_size=1e-3),
        GroupWeights(["ru", "cs", "nl"], make_section(step_size=1e-3)),
    )
    losses = {g: loss + 0.123 for g, loss in LOSSES.items()}

    observe_all(ours, losses, num_times=5)
    observe_all(theirs, dict(reversed(losses.items())), num_times=5)

    assert theirs.weights == pytest.approx(ours.weights, rel=1e-13)


def test_scales_average_to_one() -> None:
    weights = make(step_size=1e-2, smoothing=0.1)
    observe_all(weights, LOSSES, num_times=3)

    scales = [weights.scale(group) for group in LOSSES]

    assert sum(scales) / len(scales) == pytest.approx(1.0, rel=1e-14)
    assert scales == [3 * q for q in weights.weights.values()]


def test_a_huge_loss_does_not_overflow_and_no_group_is_lost() -> None:
    weights = make(step_size=1.0, smoothing=0.1)
    observe_all(weights, LOSSES | {"ru": 1e6})

    assert weights.weights["cs"] == pytest.approx(1e-10, rel=1e-3)

    observe_all(weights, {"cs": 300.0, "nl": 1.0, "ru": 1.0})

    assert weights.weights["cs"] > 0.99


def test_average_weighs_all_groups_alike_and_sends_nothing() -> None:
    def refuse(_: Tensor) -> None:
        raise AssertionError("nothing should be sent")

    weights = GroupWeights(list(LOSSES), GroupWeightingSection(), refuse)
    observe_all(weights, LOSSES, num_times=3)

    assert [weights.scale(group) for group in LOSSES] == [1.0, 1.0, 1.0]
    assert weights.num_updates == 0


@pytest.mark.parametrize("loss_sum", [None, math.nan, math.inf])
def test_a_batch_without_a_finite_loss_is_not_counted(loss_sum: float | None) -> None:
    weights = make(step_size=1e-3)
    observe_all(weights, {"cs": 180.0, "nl": 240.0})

    weights.observe([("ru", loss_sum)])
    assert weights.num_updates == 0

    weights.observe([("ru", torch.tensor(420.0))])
    once = make(step_size=1e-3)
    observe_all(once, LOSSES)

    assert weights.weights == once.weights


def test_an_unknown_group_is_refused() -> None:
    with pytest.raises(ValueError, match="`group` must be one of cs, nl, ru, but is `de` instead"):
        make().observe([("de", 1.0)])


class Replicas:
    """Runs a function once per replica, each in its thread, and sums for them."""

    def __init__(self, num_replicas: int) -> None:
        self._num_replicas = num_replicas
        self._barrier = Barrier(num_replicas)
        self._lock = Lock()
        self._total: Tensor | None = None

    def all_reduce(self, vector: Tensor) -> None:
        with self._lock:
            self._total = vector.clone() if self._total is None else self._total + vector
        self._barrier.wait(timeout=60)
        vector.copy_(self._total)
        if self._barrier.wait(timeout=60) == 0:
            self._total = None
        self._barrier.wait(timeout=60)

    def run(self, function: Callable[[int], object]) -> list[object]:
        with ThreadPoolExecutor(self._num_replicas) as pool:
            return list(pool.map(function, range(self._num_replicas)))


def test_losses_of_all_replicas_enter_and_replicas_stay_equal() -> None:
    gang = Replicas(2)
    batches = [
        [("cs", 170.0), ("nl", 240.0), ("ru", 300.0), ("cs", 100.0)],
        [("cs", 190.0), ("ru", 420.0), ("ru", None), ("nl", 200.0)],
    ]

    def train(rank: int) -> list[dict[str, float]]:
        weights = GroupWeights(list(LOSSES), make_section(step_size=1e-3), gang.all_reduce)
        history = []
        for group, loss in batches[rank]:
            weights.observe([(group, loss)])
            history.append(weights.weights)
        return history

    ours, theirs = gang.run(train)

    alone = make(step_size=1e-3)
    observe_all(alone, {"cs": 180.0, "nl": 240.0, "ru": 420.0})
    after_first = alone.weights
    observe_all(alone, {"cs": 100.0, "nl": 200.0, "ru": 300.0})

    assert ours == theirs  # to the bit
    assert ours[0] == dict.fromkeys(LOSSES, 1 / 3)
    assert ours[1] == ours[2] == pytest.approx(after_first, rel=1e-14)
    assert ours[3] == pytest.approx(alone.weights, rel=1e-14)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does() -> None:
    rng = random.Random(0)
    batches = [(rng.choice(list(LOSSES)), rng.uniform(100, 500)) for _ in range(60)]
    batches[25:25] = [(group, 300.0) for group in [*LOSSES, *LOSSES, "ru", "ru"]]

    whole = make(step_size=1e-3, smoothing=0.1)
    first = make(step_size=1e-3, smoothing=0.1)
    for batch in batches:
        whole.observe([batch])
    for batch in batches[:33]:
        first.observe([batch])

    # In the middle of a round, of which the groups have seen different parts.
    state = first.state_dict()
    assert state["seen"][0, 2] > 0.0 == state["seen"][0, 0]

    first.observe([("cs", 1e4)])  # the state is a copy

    resumed = GroupWeights(["ru", "nl", "cs"], make_section(step_size=1e-3, smoothing=0.1))
    resumed.load_state_dict(state)
    for batch in batches[33:]:
        resumed.observe([batch])

    # To rounding, as the groups stand in another order.
    assert resumed.weights == pytest.approx(whole.weights, rel=1e-12)
    assert resumed.num_updates == whole.num_updates > 5

    same_order = make(step_size=1e-3, smoothing=0.1)
    same_order.load_state_dict(state)
    for batch in batches[33:]:
        same_order.observe([batch])

    assert same_order.weights == whole.weights


def test_a_state_of_other_groups_is_refused() -> None:
    other = GroupWeights(["cs", "de"], make_section())

    with pytest.raises(InputError, match="of the groups cs, de, but this run has cs, nl, ru"):
        make().load_state_dict(other.state_dict())


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"step_size": 0.0}, "`step_size` must be greater than 0 and finite, but is 0.0 instead."),
        (
            {"smoothing": -0.1},
            "`smoothing` must be greater than 0 and finite, but is -0.1 instead.",
        ),
        ({"smoothing": math.inf}, "`smoothing` must be greater than 0 and finite, but is inf"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, float], error: str) -> None:
    (found,) = make_section(**settings).validate().errors

    assert error in found
    assert not make_section(smoothing=None).validate().errors
