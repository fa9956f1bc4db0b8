"""Episodes that cannot be trained on contribute nothing, are counted per source, and are acted on as configured."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
import torch
from fairseq2.datasets import SequenceBatch
from fairseq2.metrics import MetricBag, Sum
from torch import Tensor
from torch.nn import Linear, Module

from eqssl_speech.criteria.base import CriterionOutput
from eqssl_speech.criteria.metrics import LostEpisodes, SourceMetrics, split_by_source
from eqssl_speech.data.episodes import Episode
from eqssl_speech.equilibrium import (
    EquilibriumOptimizer,
)
from eqssl_speech.error import InputError
from eqssl_speech.tasks.errors import TrainingDivergedError
from eqssl_speech.tasks.pretrain.episode_loss import EpisodeLoss
from eqssl_speech.tasks.pretrain.lost_episodes import LostEpisodeWatch
from eqssl_speech.tasks.pretrain.train_unit import PretrainUnit
from eqssl_speech.tasks.repetition import is_worth_a_line

CPU = torch.device("cpu")
SOURCES = ("ru", "es")
INNER_LR = 0.1


class CriterionOnCommand:
    """A mean square that is multiplied by what the batch commands: 1, something large, or NaN."""

    chance = 4.0
    num_codes = 2
    num_labels = ()

    def __call__(self, model: Module, batch: SequenceBatch) -> CriterionOutput:
        loss = model(batch.seqs).square().mean() * batch.example["factor"]

        return CriterionOutput(
            loss=loss,
            num_targets=batch.batch_size,
            main_loss=loss.detach(),
            num_correct=torch.tensor(1),
            code_perplexity=torch.tensor(1.5),
            prob_perplexity=torch.tensor(1.5),
            code_counts=torch.ones(2),
        )

    def set_step_nr(self, step_nr: int) -> None:
        pass


class Recorder:
    """Keeps the last values of each category."""

    def __init__(self) -> None:
        self.rows: dict[str, Mapping[str, object]] = {}

    def record_metric_values(
        self, category: str, values: Mapping[str, object], step_nr: int | None = None
    ) -> None:
        self.rows[category] = dict(values)


class Run:
    """A unit, what the host would do with it, and a network of one layer."""

    def __init__(
        self,
        policy: Any = "skip",
        *,
        order: Any = "first",
        max_rise: float | None = 2.0,
        max_num_in_a_row: int = 10,
        maximum: Callable[[Tensor], None] | None = None,
        start_after_num_steps: int = 0,
    ) -> None:
        torch.manual_seed(0)

        self.net = Linear(6, 3)
        self.optimizer = EquilibriumOptimizer(
            torch.optim.SGD(self.net.parameters(), lr=0.1),
            num_inner_steps=1,
            inner_lr=INNER_LR,
            start_after_num_steps=start_after_num_steps,
        )
        criterion = cast(Any, CriterionOnCommand())
        loss = EpisodeLoss(
            self.net, self.net, criterion, self.optimizer, order=order, max_rise=max_rise
        )
        watch = LostEpisodeWatch(
            SOURCES, policy, max_num_in_a_row=max_num_in_a_row, maximum=maximum
        )
        self.recorder = Recorder()
        self.unit = PretrainUnit(
            loss,
            criterion,
            self.optimizer,
            SOURCES,
            cast(Any, self.recorder),
            lambda name: 0,
            watch,
            num_episodes=len(SOURCES),
            sample_rate=16_000,
        )
        self.bag = MetricBag(CPU)
        self.unit.prepare_metric_bag(self.bag)
        self.step_nr = 0

    def step(self, *episodes: Episode) -> None:
        self.step_nr += 1
        self.unit.set_step_nr(self.step_nr)

        for episode in episodes:
            loss, _ = self.unit.process_batch(episode, self.bag)
            loss.backward()

        self.optimizer.step()
        self.optimizer.zero_grad()

    def publish(self) -> dict[str, Any]:
        values: dict[str, object] = {n: m.compute() for n, m in self.bag.metrics.items()}
        self.unit.process_metric_values(values)

        for name, metric in self.bag.metrics.items():
            if not name.startswith("total_"):
                metric.reset()

        return {name: self.recorder.rows[f"train/{name}"] for name in SOURCES}


def make_episode(name: str, *factors: float, seed: int = 1, is_dead: bool = False) -> Episode:
    generator = torch.Generator().manual_seed(seed)

    batches = [
        SequenceBatch(torch.randn(4, 6, generator=generator), None, example={"factor": factor})
        for factor in (factors or (1.0, 1.0))
    ]

    return Episode(name, batches, seed, is_dead=is_dead)


GOOD = make_episode("es", 1.0, 1.0, seed=2)
EXPLODED = make_episode("ru", 1.0, 1000.0)
NON_FINITE = make_episode("ru", 1.0, math.nan)
NON_FINITE_AT_THETA = make_episode("ru", math.nan, 1.0)
DEAD = make_episode("ru", is_dead=True)


@pytest.mark.parametrize("order", ["first", "exact"])
@pytest.mark.parametrize(
    ("episode", "reason"), [(EXPLODED, "exploded"), (NON_FINITE, "non_finite"), (DEAD, "dead")]
)
def test_lost_episode_contributes_nothing_and_is_counted(
    order: str, episode: Episode, reason: str
) -> None:
    run, other = Run(order=order), Run(order=order)

    run.step(episode, GOOD)
    other.step(GOOD)

    for param, other_param in zip(run.net.parameters(), other.net.parameters()):
        assert torch.equal(param, other_param)

    rows = run.publish()

    lost = {key for key in ("non_finite", "exploded", "dead") if key in rows["ru"]}
    assert lost == {reason}
    assert rows["ru"][reason] == 1.0
    assert "plain_loss" not in rows["ru"]
    assert "plain_loss" in rows["es"]
    assert not lost & rows["es"].keys()


@pytest.mark.parametrize("order", ["first", "exact"])
def test_a_rise_is_looked_at_only_if_configured_and_once_there_are_inner_steps(order: str) -> None:
    for settings in ({"max_rise": None}, {"start_after_num_steps": 5}):
        if order == "exact" and "max_rise" not in settings:
            continue

        run = Run(order=order, **cast(Any, settings))
        run.step(EXPLODED, GOOD)

        assert "plain_loss" in run.publish()["ru"]


@pytest.mark.parametrize("episode", [EXPLODED, NON_FINITE])
def test_run_stops_at_once_where_that_is_the_policy(episode: Episode) -> None:
    run = Run("stop")
    run.step(make_episode("ru"), GOOD)

    with pytest.raises(TrainingDivergedError) as info:
        run.step(episode, GOOD)

    message = str(info.value)
    assert message.startswith("Source ru: at inner step 1 of step 2 the loss ")
    assert "`equilibrium.on_divergence` to 'lower_inner_lr'" in message
    assert message.count(". ") == 0


def test_dead_source_does_not_stop_a_run_that_stops_at_numbers_gone_wrong() -> None:
    run = Run("stop", max_num_in_a_row=1)

    for _ in range(3):
        run.step(DEAD, DEAD)


def test_run_stops_after_too_many_of_both_kinds_in_a_row_and_not_after_as_many_apart() -> None:
    run = Run(max_num_in_a_row=3)

    for _ in range(3):
        run.step(EXPLODED, GOOD)
        run.step(NON_FINITE, GOOD)

    run.step(EXPLODED, NON_FINITE)

    with pytest.raises(TrainingDivergedError, match=r"^3 episodes in a row .* of step 8 the loss "):
        run.step(EXPLODED, NON_FINITE)


def test_run_whose_inner_lr_is_lowered_stops_only_when_that_does_not_help() -> None:
    run = Run("lower_inner_lr", max_num_in_a_row=1)

    for _ in range(10):
        run.step(EXPLODED, EXPLODED)

    assert run.publish()["ru"]["inner_lr"] == INNER_LR / 1024

    with pytest.raises(TrainingDivergedError, match="1 episodes in a row"):
        run.step(EXPLODED, GOOD)


def test_inner_lr_of_the_source_is_halved_from_the_next_step_on() -> None:
    run = Run("lower_inner_lr")

    # Twice in one step counts once.
    run.step(EXPLODED, EXPLODED)
    run.step(NON_FINITE, GOOD)
    run.step(make_episode("ru"), GOOD)

    rows = run.publish()
    assert rows["ru"]["inner_lr"] == INNER_LR / 4
    assert "inner_lr" not in rows["es"]
    assert "num_lowered" not in rows["ru"]

    # And it is what the inner step is taken with.
    expected = Run()
    expected.net.load_state_dict(run.net.state_dict())
    slow, fast = expected.optimizer, Run()
    fast.net.load_state_dict(run.net.state_dict())
    criterion = CriterionOnCommand()
    batches = make_episode("ru").batches
    slow.adapt([lambda: criterion(expected.net, batches[0]).loss], inner_lr_scale=0.25)
    loss = criterion(expected.net, batches[1]).loss.item()
    fast.optimizer.adapt([lambda: criterion(fast.net, batches[0]).loss])

    result, _ = run.unit.process_batch(make_episode("ru"), run.bag)
    assert result.item() == loss != criterion(fast.net, batches[1]).loss.item()


@pytest.mark.parametrize(
    ("episode", "settings"),
    [(NON_FINITE_AT_THETA, {}), (NON_FINITE, {"start_after_num_steps": 5}), (DEAD, {})],
)
def test_inner_lr_stays_where_no_inner_step_has_brought_it_about(
    episode: Episode, settings: dict[str, Any]
) -> None:
    run = Run("lower_inner_lr", **settings)
    run.step(episode, GOOD)

    assert "inner_lr" not in run.publish()["ru"]


def test_all_ranks_lower_what_one_of_them_asks_for_and_are_asked_once_a_step() -> None:
    asked: list[list[int]] = []

    def maximum(numbers: Tensor) -> None:
        asked.append(numbers.tolist())
        numbers[1] = 1

    run = Run("lower_inner_lr", maximum=maximum)
    run.step(EXPLODED, GOOD)
    run.step(make_episode("ru"), GOOD)

    assert asked == [[1, 0], [0, 0]]

    rows = run.publish()
    assert (rows["ru"]["inner_lr"], rows["es"]["inner_lr"]) == (INNER_LR / 2, INNER_LR / 4)

    silent = Run("skip", maximum=lambda numbers: pytest.fail("nothing has to be agreed on"))
    silent.step(EXPLODED, GOOD)


def test_resumed_run_goes_on_with_the_lowered_inner_lr() -> None:
    whole, first = Run("lower_inner_lr"), Run("lower_inner_lr")

    for run in (whole, first):
        run.step(EXPLODED, GOOD)

    second = Run("lower_inner_lr")
    second.net.load_state_dict(first.net.state_dict())
    second.bag.load_state_dict(copy.deepcopy(first.bag.state_dict()))
    second.step_nr = first.step_nr

    for run in (whole, second):
        run.step(make_episode("ru", seed=3), make_episode("es", seed=4))

    assert torch.equal(whole.net.weight, second.net.weight)
    assert second.publish()["ru"]["inner_lr"] == INNER_LR / 2


def test_run_ends_only_when_no_source_at_all_can_be_read() -> None:
    run = Run()
    dead_es = make_episode("es", is_dead=True)

    run.step(DEAD, GOOD)
    assert run.publish()["ru"]["dead"] == 1.0

    run.step(make_episode("ru"), dead_es)
    run.publish()

    run.step(dead_es)
    run.publish()

    run.step(DEAD)
    with pytest.raises(InputError, match=r"^No recording of any source .*eqssl check"):
        run.publish()


def test_warnings_of_one_source_become_rare(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(max_num_in_a_row=10**6)

    for _ in range(120):
        run.step(EXPLODED, GOOD)
        run.step(DEAD, GOOD)

    lines = [r.getMessage() for r in caplog.records]
    assert sum("has risen to" in line for line in lines) == 22
    assert sum("no recording can be read any more" in line for line in lines) == 1
    assert [n for n in range(1, 3000) if is_worth_a_line(n)][20:] == [50, 100, 200, 500, 1000, 2000]


def test_counts_are_summed_over_ranks_and_read_from_an_older_checkpoint() -> None:
    ranks = [LostEpisodes(), LostEpisodes()]

    for metric, num_dead in zip(ranks, (2, 3)):
        for _ in range(num_dead):
            metric.update("dead")

        metric.update("exploded")
        metric.lower()

    ranks[0].merge_state(ranks[1:])
    assert ranks[0].compute() == {"non_finite": 0, "exploded": 2, "dead": 5, "num_lowered": 1}

    older, bag = MetricBag(CPU), MetricBag(CPU)
    older.add("total_non_finite@ru", Sum().update(torch.tensor(7)))
    bag.add("total_non_finite@ru", LostEpisodes())
    bag.load_state_dict(older.state_dict())

    values: dict[str, object] = {n: m.compute() for n, m in bag.metrics.items()}
    assert split_by_source(values, ["ru"]) == {"ru": {"non_finite": 7.0}}
    assert values == {}

    metrics = SourceMetrics(bag, "ru")
    metrics.lost.update("non_finite")
    assert metrics.lost.compute()["non_finite"] == 8
