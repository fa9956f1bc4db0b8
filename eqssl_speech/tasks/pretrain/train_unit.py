"""The unit of the host's trainer: an episode's loss, and what is counted and watched on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping, Sequence
from typing import Final, final

import torch
from fairseq2.metrics import MetricBag, Sum
from fairseq2.metrics.recorders import MetricRecorder
from fairseq2.trainer import TrainUnit
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from eqssl_speech.criteria.base import Criterion
from eqssl_speech.criteria.metrics import (
    RunningMean,
    SourceMetrics,
    macro_average,
    split_by_source,
)
from eqssl_speech.data.episodes import Episode
from eqssl_speech.equilibrium import EpisodeError, EquilibriumOptimizer, GradientSketch
from eqssl_speech.tasks.pretrain.episode_loss import EpisodeLoss, EpisodeResult
from eqssl_speech.tasks.pretrain.lost_episodes import LostEpisodeWatch, show_inner_lr

_REGIME_METRICS: Final = ("inner_grad_norm", "inner_lr", "source_grad_cosine")


@final
class PretrainUnit(TrainUnit[Episode]):
    """Computes the outer losses of episodes and the metrics of every source."""

    def __init__(
        self,
        episode_loss: EpisodeLoss,
        criterion: Criterion,
        optimizer: Optimizer,
        source_names: Sequence[str],
        recorder: MetricRecorder,
        count_bad: Callable[[str], int],
        watch: LostEpisodeWatch,
        *,
        num_episodes: int,
        sample_rate: int,
        proportional: bool = False,
        sketch: GradientSketch | None = None,
    ) -> None:
        """
        :param episode_loss: Computes the loss.
        :param criterion: Is told the number of the step.
        :param optimizer: Is told the number of the step too, if it adapts.
        :param source_names: The data sources (or ``mixed``).
        :param recorder: Gets the values of each source on a line of their own.
        :param count_bad: Returns how many recordings of a source could not be read by this rank so far.
        :param watch: Says what comes of episodes that cannot be trained on.
        :param num_episodes: The episodes of an outer step on this rank.
        :param sample_rate: Of the audio, in Hz.
        :param proportional: Weigh episodes by their number of targets instead of alike.
        :param sketch: If given, measures how much the sources' outer gradients agree.
        """
        self._episode_loss = episode_loss
        self._criterion = criterion
        self._optimizer = optimizer if isinstance(optimizer, EquilibriumOptimizer) else None
        self._source_names = source_names
        self._recorder = recorder
        self._count_bad = count_bad
        self._watch = watch
        self._num_episodes = num_episodes
        self._sample_rate = sample_rate
        self._proportional = proportional
        self._sketch = sketch

        self._step_nr = 0
        self._episode_nr = 0
        self._num_steps = 0
        self._published_at = time.monotonic()
        self._sources: dict[str, SourceMetrics] = {}

    @override
    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        for name in self._source_names:
            SourceMetrics(metric_bag, name).add(
                self._criterion.num_codes, self._criterion.num_labels
            )

        metric_bag.add("audio_seconds", Sum())
        metric_bag.add("total_audio_seconds", Sum())

        # In every regime the same, so that a checkpoint of one resumes in another.
        for name in _REGIME_METRICS:
            metric_bag.add(name, RunningMean())

    @override
    def set_step_nr(self, step_nr: int) -> None:
        self._step_nr = step_nr
        self._num_steps += 1
        self._episode_nr = 0

        self._watch.begin_step()

        if self._sketch is not None:
            # Whatever a step left behind whose last episode came to nothing.
            self._sketch.mean_cosine()

        self._criterion.set_step_nr(step_nr)

        if self._optimizer is not None:
            self._optimizer.set_step_nr(step_nr)

    @override
    def process_batch(self, batch: Episode, metric_bag: MetricBag) -> tuple[Tensor, int | None]:
        # Random draws belong to the episode, not to the rank: the same episodes make the same update on any number.
        torch.manual_seed(batch.seed)

        metrics = SourceMetrics(metric_bag, batch.source_name)

        self._episode_nr += 1

        inner_lr_scale = self._watch.inner_lr_scale(metrics)

        try:
            result = self._episode_loss(batch, inner_lr_scale)
        except EpisodeError as ex:
            self._watch.count_lost(
                batch.source_name, ex, metrics, step_nr=self._step_nr, inner_lr=self._inner_lr
            )

            loss, num_targets = self._episode_loss.nothing(batch), 1
        else:
            self._watch.count_good(batch.source_name)

            self._update_metrics(batch, result, metrics, metric_bag, inner_lr_scale)

            loss, num_targets = result.loss, result.last.num_targets

            if self._proportional:
                loss = loss * num_targets

            self._watch_gradient(batch.source_name, loss, metric_bag)

        if self._episode_nr == self._num_episodes:
            # After the forward passes, of which each rank has had at least one: they may send something too.
            self._watch.end_step(metric_bag, self._inner_lr, self._step_nr)

        return loss, num_targets if self._proportional else None

    @property
    def _inner_lr(self) -> float:
        if self._optimizer is None or self._optimizer.num_inner_steps == 0:
            return 0.0

        return self._optimizer.current_inner_lr

    def _watch_gradient(self, source_name: str, loss: Tensor, metric_bag: MetricBag) -> None:
        if self._sketch is None:
            return

        sketch = self._sketch

        def update_cosine() -> None:
            cosine = sketch.mean_cosine()
            if cosine is not None:
                metric_bag.get("source_grad_cosine", RunningMean).update(cosine)

        is_last = self._episode_nr == self._num_episodes

        sketch.watch(source_name, loss, update_cosine if is_last else None)

    @torch.inference_mode()
    def _update_metrics(
        self,
        episode: Episode,
        result: EpisodeResult,
        metrics: SourceMetrics,
        metric_bag: MetricBag,
        inner_lr_scale: float,
    ) -> None:
        metrics.update_plain(result.first)
        metrics.update_adapted(result.last)

        duration_s = episode.num_samples / self._sample_rate

        metrics.update_audio(episode.num_utterances, duration_s)
        metric_bag.get("audio_seconds", Sum).update(duration_s)
        metric_bag.get("total_audio_seconds", Sum).update(duration_s)

        if result.inner_grad_norms is not None:
            metric_bag.get("inner_grad_norm", RunningMean).update(result.inner_grad_norms.mean())
            metric_bag.get("inner_lr", RunningMean).update(self._inner_lr * inner_lr_scale)

    @override
    def process_metric_values(self, values: MutableMapping[str, object]) -> None:
        rows = split_by_source(values, self._source_names)

        for name in ("plain_loss", "adapted_loss", "adaptation_gain", "accuracy"):
            average = macro_average(rows, name)
            if average is not None:
                values[name] = average

        if self._sketch is None:
            del values["source_grad_cosine"]

        if self._optimizer is None or self._optimizer.num_inner_steps == 0:
            del values["inner_grad_norm"], values["inner_lr"]

        now = time.monotonic()
        audio_seconds = float(values.pop("audio_seconds"))  # type: ignore[arg-type]

        values["audio_seconds_per_update"] = audio_seconds / max(self._num_steps, 1)
        values["audio_seconds_per_second"] = audio_seconds / max(now - self._published_at, 1e-9)

        self._num_steps, self._published_at = 0, now

        for name, row in rows.items():
            num_bad = self._count_bad(name)
            if num_bad > 0:
                row["bad_recordings"] = num_bad

            show_inner_lr(row, self._inner_lr)

            self._recorder.record_metric_values(f"train/{name}", row, self._step_nr)

        # Not before all values are on record.
        self._watch.require_alive(rows)
