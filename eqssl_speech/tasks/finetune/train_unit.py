"""The unit of the host's trainer: the CTC loss of a batch, and what is counted on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping, Sequence
from typing import Final, final

import torch
from fairseq2.logging import log
from fairseq2.metrics import MetricBag, Sum
from fairseq2.metrics.recorders import MetricRecorder
from fairseq2.trainer import TrainUnit
from torch import Tensor
from torch.nn import Module
from typing_extensions import override

from eqssl_speech.criteria.ctc import CtcCriterion, CtcOutput
from eqssl_speech.criteria.metrics import RunningMean
from eqssl_speech.data.transcribed import TranscribedBatch, TranscribedUtterances
from eqssl_speech.tasks.finetune.weighting import SourceWeighting

_MEANS: Final = ("ctc_loss", "blank_share")
_SUMS: Final = ("utterances", "audio_seconds", "zero_loss", "non_finite")


@final
class FinetuneUnit(TrainUnit[TranscribedBatch]):
    """Computes the losses of batches and the metrics of every source."""

    def __init__(
        self,
        model: Module,
        criterion: CtcCriterion,
        weighting: SourceWeighting,
        sources: Sequence[TranscribedUtterances],
        recorder: MetricRecorder,
        count_bad: Callable[[str], int],
        on_step: Callable[[int], None],
        *,
        sample_rate: int,
    ) -> None:
        """
        :param model: The model that the trainer's backward goes through.
        :param criterion: The loss.
        :param weighting: How the losses of the sources are put together.
        :param sources: The training utterances of each source.
        :param recorder: Gets the values of each source on a line of their own.
        :param count_bad: Returns how many recordings of a source could not be read by this rank so far.
        :param on_step: Told the number of each update before it begins.
        :param sample_rate: Of the audio, in Hz.
        """
        self._model = model
        self._criterion = criterion
        self._weighting = weighting
        self._sources = {source.source_name: source for source in sources}
        self._recorder = recorder
        self._count_bad = count_bad
        self._on_step = on_step
        self._sample_rate = sample_rate

        self._step_nr = 0
        self._num_steps = 0
        self._published_at = time.monotonic()
        self._named: set[tuple[str, int]] = set()

    @override
    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        for source_name in self._sources:
            for name in _MEANS:
                metric_bag.add(f"{name}@{source_name}", RunningMean())

            for name in _SUMS:
                metric_bag.add(f"total_{name}@{source_name}", Sum())

        metric_bag.add("ctc_loss", RunningMean())
        metric_bag.add("audio_seconds", Sum())
        metric_bag.add("total_audio_seconds", Sum())

        self._weighting.add_metrics(metric_bag)

    @override
    def set_step_nr(self, step_nr: int) -> None:
        self._step_nr = step_nr
        self._num_steps += 1

        self._weighting.begin_update()

        self._on_step(step_nr)

    @override
    def process_batch(
        self, batch: TranscribedBatch, metric_bag: MetricBag
    ) -> tuple[Tensor, int | None]:
        # Random draws belong to the batch, not to the rank: the same batches make the same update on any number.
        torch.manual_seed(batch.seed)

        output = self._criterion(self._model, batch)

        self._name_impossible(batch, output)
        self._update_metrics(batch, output, metric_bag)

        return self._weighting(batch.source_name, output, metric_bag), None

    def _name_impossible(self, batch: TranscribedBatch, output: CtcOutput) -> None:
        source = self._sources[batch.source_name]

        for number in output.impossible.nonzero().flatten().tolist():
            key = (batch.source_name, batch.indices[number])
            if key in self._named:
                continue

            self._named.add(key)

            log.warning(
                "{}: its {} labels do not fit its {} frames, so its loss counts as zero.",
                source.describe(key[1]),
                int(output.num_labels[number]),
                int(output.num_frames[number]),
            )

    @torch.inference_mode()
    def _update_metrics(
        self, batch: TranscribedBatch, output: CtcOutput, metric_bag: MetricBag
    ) -> None:
        name = batch.source_name
        duration_s = batch.num_samples / self._sample_rate

        def add(key: str, value: float) -> None:
            metric_bag.get(f"total_{key}@{name}", Sum).update(value)

        add("utterances", batch.batch_size)
        add("audio_seconds", duration_s)
        add("zero_loss", int(output.impossible.sum()))

        metric_bag.get("audio_seconds", Sum).update(duration_s)
        metric_bag.get("total_audio_seconds", Sum).update(duration_s)

        loss = output.loss.detach()

        if not bool(torch.isfinite(loss)):
            add("non_finite", 1)

            self._name_non_finite(batch, output)

            return

        weight = max(output.num_counted_labels, 1)

        metric_bag.get("ctc_loss", RunningMean).update(loss)
        metric_bag.get(f"ctc_loss@{name}", RunningMean).update(loss, weight=weight)
        metric_bag.get(f"blank_share@{name}", RunningMean).update(
            output.blank_share, weight=int(output.num_frames.sum())
        )

    def _name_non_finite(self, batch: TranscribedBatch, output: CtcOutput) -> None:
        source = self._sources[batch.source_name]
        fits = ~output.impossible

        wrong = (~torch.isfinite(output.losses) & fits).nonzero().flatten().tolist()
        named = ", ".join(source.describe(batch.indices[number]) for number in wrong)

        log.warning("The loss at step {} is not finite for {}.", self._step_nr, named or batch.source_name)  # fmt: skip

    @override
    def process_metric_values(self, values: MutableMapping[str, object]) -> None:
        self._weighting.remove_values(values)

        now = time.monotonic()
        audio_seconds = _to_float(values.pop("audio_seconds"))

        values["audio_seconds_per_update"] = audio_seconds / max(self._num_steps, 1)
        values["audio_seconds_per_second"] = audio_seconds / max(now - self._published_at, 1e-9)

        self._num_steps, self._published_at = 0, now

        for name in self._sources:
            row = self._take_row(name, values)

            num_bad = self._count_bad(name)
            if num_bad > 0:
                row["bad_recordings"] = num_bad

            row |= self._weighting.describe(name)

            self._recorder.record_metric_values(f"train/{name}", row, self._step_nr)

    def _take_row(self, source_name: str, values: MutableMapping[str, object]) -> dict[str, object]:
        row: dict[str, object] = {}

        for name in _SUMS:
            value = _to_float(values.pop(f"total_{name}@{source_name}"))
            if value > 0.0 or name in ("utterances", "audio_seconds"):
                row[name] = value

        means = {name: _to_float(values.pop(f"{name}@{source_name}")) for name in _MEANS}

        # A mean of nothing computes to zero, which no loss is.
        return means | row if means["ctc_loss"] > 0.0 else row


def _to_float(value: object) -> float:
    return float(value)  # type: ignore[arg-type]
