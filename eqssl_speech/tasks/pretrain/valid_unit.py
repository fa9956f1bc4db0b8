"""Validation of one source: the loss at theta, and after adaptation steps on the source's training batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import final

import torch
from fairseq2.evaluator import EvalUnit
from fairseq2.logging import log
from fairseq2.metrics import MetricBag
from fairseq2.metrics.recorders import MetricRecorder
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn import Module
from typing_extensions import override

from eqssl_speech.criteria.base import Criterion, CriterionOutput
from eqssl_speech.criteria.collapse import CollapseDetector
from eqssl_speech.criteria.metrics import SourceMetrics, macro_average, split_by_source
from eqssl_speech.data.episodes import Episode
from eqssl_speech.data.labelled import SpeechBatch, clone_batch
from eqssl_speech.equilibrium import (
    InnerLoop,
    NonFiniteError,
    Snapshot,
    descend,
    forget_cast_weights,
)
from eqssl_speech.tasks.errors import CollapseError


@final
class ValidationRound:
    """Gathers the sources of one validation; the last one completes macro average and worst source."""

    def __init__(
        self, source_names: Sequence[str], recorder: MetricRecorder, *, stop_on_collapse: bool
    ) -> None:
        """
        :param source_names: The sources of a validation.
        :param recorder: Gets the macro average, as category ``valid``.
        :param stop_on_collapse: Whether the run ends when a collapse is seen.
        """
        self._source_names = source_names
        self._recorder = recorder
        self._stop_on_collapse = stop_on_collapse
        self._detector = CollapseDetector()
        self._rows: dict[str, dict[str, float]] = {}
        self._messages: list[str] = []

    def add(self, source_name: str, step_nr: int, row: dict[str, float]) -> None:
        """Take the values of a source.

        :raises CollapseError: If a collapse is seen and the run is to stop then.
        """
        self._rows[source_name] = row

        if row["plain_loss"] == math.inf:
            log.warning(
                "Source {}: none of its recordings could be read for the validation after step {}; its loss, and with "
                "it the macro average, counts as infinite.",
                source_name,
                step_nr,
            )
        else:
            self._observe(source_name, step_nr, row)

        if len(self._rows) == len(self._source_names):
            self._complete(step_nr)

    def _observe(self, source_name: str, step_nr: int, row: dict[str, float]) -> None:
        warnings = self._detector.observe(
            source_name,
            step_nr,
            plain_loss=row["plain_loss"],
            chance=row["chance"],
            adapted_loss=row.get("adapted_loss"),
            accuracy=row.get("accuracy"),
            # Labels that are given do not collapse.
            code_share=None if "majority_share" in row else row.get("code_share"),
            chance_is_bound="majority_share" in row,
        )

        for warning in warnings:
            log.warning(warning.message)

        self._messages += [warning.message for warning in warnings]

    def _complete(self, step_nr: int) -> None:
        values: dict[str, object] = {}

        for name in (
            "plain_loss",
            "adapted_loss",
            "adaptation_gain",
            "accuracy",
            "majority_share",
            "code_share",
            "chance",
        ):
            average = macro_average(self._rows, name)
            if average is not None:
                values[name] = average

        worst = max(self._rows, key=lambda name: self._rows[name]["plain_loss"])

        values["worst_source"] = worst
        values["worst_plain_loss"] = self._rows[worst]["plain_loss"]

        self._recorder.record_metric_values("valid", values, step_nr)

        self._rows = {}

        # Not before all values are on record.
        if self._messages and self._stop_on_collapse:
            raise CollapseError(self._messages[0])

        self._messages = []


@final
class PretrainEvalUnit(EvalUnit[Episode]):
    """Measures one source. What is measured at theta and after adaptation differs in the parameters alone: the batch,
    its masks and its distractors are the same."""

    def __init__(
        self,
        source_name: str,
        module: Module,
        criterion: Criterion,
        loop: InnerLoop | None,
        validation_round: ValidationRound,
    ) -> None:
        """
        :param source_name: The data source.
        :param module: The base module; nothing is sent while it runs.
        :param criterion: The loss.
        :param loop: The adaptation, or ``None`` to measure at theta only.
        :param validation_round: Is told the values.
        """
        self._source_name = source_name
        self._module = module
        self._criterion = criterion
        self._loop = loop
        self._round = validation_round
        self._step_nr = 0

    @override
    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        SourceMetrics(metric_bag, self._source_name).add(
            self._criterion.num_codes, self._criterion.num_labels
        )

    @override
    def set_train_step_nr(self, step_nr: int) -> None:
        self._step_nr = step_nr

    @override
    def process_batch(self, batch: Episode, metric_bag: MetricBag) -> None:
        if batch.is_dead:
            return

        with _in_full_precision(self._module):
            self._measure(batch, SourceMetrics(metric_bag, self._source_name))

    def _measure(self, batch: Episode, metrics: SourceMetrics) -> None:
        *adapt, evaluate = batch.batches

        if self._loop is None:
            metrics.update_plain(self._criterion(self._module, evaluate))

            return

        with self._fork_rng():
            metrics.update_plain(self._criterion(self._module, evaluate))

        adapted = self._evaluate_adapted(self._loop, adapt, evaluate)
        if adapted is not None and bool(torch.isfinite(adapted.main_loss)):
            metrics.update_adapted(adapted)

    def _evaluate_adapted(
        self, loop: InnerLoop, adapt: list[SpeechBatch], evaluate: SpeechBatch
    ) -> CriterionOutput | None:
        params = [p for p in self._module.parameters() if p.requires_grad]

        # Inference tensors take no part in a backward pass; copies made outside of the mode do.
        with torch.inference_mode(False):
            # The forward pass at theta has left inference tensors in autocast's cache.
            forget_cast_weights()

            snapshot = Snapshot([*params, *self._module.buffers()])
            snapshot.take()

            closures = [partial(self._loss, clone_batch(b)) for b in adapt]

            self._module.train()

            try:
                with self._fork_rng():
                    descend(params, closures, loop)

                self._module.eval()

                with torch.no_grad():
                    return self._criterion(self._module, evaluate)
            except NonFiniteError as ex:
                log.warning(
                    "Source {}: the {} of adaptation step {} is not finite; the batch is left out of the adapted loss.",
                    self._source_name,
                    ex.what,
                    ex.inner_step,
                )

                return None
            finally:
                self._module.eval()

                snapshot.put_back()

    def _loss(self, batch: SpeechBatch) -> Tensor:
        return self._criterion(self._module, batch).loss

    def _fork_rng(self) -> AbstractContextManager[None]:
        device = next(self._module.parameters()).device

        return torch.random.fork_rng([device] if device.type == "cuda" else [])

    @override
    def process_metric_values(self, values: MutableMapping[str, object]) -> None:
        row = split_by_source(values, [self._source_name])[self._source_name]

        for name in ("utterances", "audio_seconds"):
            row.pop(name, None)

        # Of a source that cannot be read; no step shall be the best for it.
        row.setdefault("plain_loss", math.inf)

        if self._loop is None:
            row.pop("adapted_loss", None)
            row.pop("adaptation_gain", None)

        # Where targets have labels, a model that has learned nothing else knows how frequent each is.
        row["chance"] = row.pop("label_entropy", self._criterion.chance / math.log(2.0))

        values.update(row)

        self._round.add(self._source_name, self._step_nr, row)

    @property
    @override
    def name(self) -> str:
        return self._source_name


@contextmanager
def _in_full_precision(module: Module) -> Iterator[None]:
    """Let a module that FSDP2 has gathered in half precision take steps in full, and compute as in training.

    For a validation the host gathers parameters in the precision of the forward pass. A step of gradient descent would
    be lost in the rounding there.
    """
    params = list(module.parameters())
    dtype = params[0].dtype

    if dtype not in (torch.bfloat16, torch.float16) or not isinstance(module, FSDPModule):
        yield

        return

    gathered = [p.data for p in params]

    with torch.inference_mode(False):
        for param in params:
            param.data = param.data.float()

    try:
        with torch.autocast(params[0].device.type, dtype=dtype):
            yield
    finally:
        for param, data in zip(params, gathered, strict=True):
            param.data = data
