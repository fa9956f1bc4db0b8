"""Measures adaptation curves: the loss on a source after 0, 1, .., K steps of gradient descent on its training data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import torch
from fairseq2.utils.structured import StandardValueConverter, StructureError
from torch import Tensor
from torch.nn import Module

from eqssl_speech.criteria.base import Criterion, LossSection
from eqssl_speech.data.episodes import Episode
from eqssl_speech.data.labelled import SpeechBatch
from eqssl_speech.data.loading import BatchLoader, UtteranceReader
from eqssl_speech.equilibrium import InnerLoop, NonFiniteError, Snapshot, descend
from eqssl_speech.error import InputError
from eqssl_speech.models.opening import make_model, open_checkpoint
from eqssl_speech.models.speech_checkpoint import SpeechCheckpoint
from eqssl_speech.models.wav2vec2 import accelerate, expects_normalized_audio, prepare_model
from eqssl_speech.report.runs import read_config
from eqssl_speech.tasks.pretrain.config import PretrainConfig, ValidationSection
from eqssl_speech.tasks.pretrain.recipe import create_criterion
from eqssl_speech.tasks.pretrain.sources import (
    CheckedSources,
    check_sources,
)
from eqssl_speech.tasks.pretrain.valid_readers import create_adaptation_reader

_NATS_PER_BIT: Final = math.log(2.0)


@final
@dataclass(frozen=True)
class AdaptationOptions:
    """How adaptation is measured."""

    num_steps: int = 20
    """K, at least 1."""

    lr: float = 0.03
    """The step size of gradient descent, greater than 0."""

    seconds_per_batch: float = 16.0
    """The audio of a batch, of those that are stepped on as of those that are evaluated."""

    num_batches: int = 3
    """So many validation batches of a source are evaluated after each step, of recordings of all lengths."""


@final
@dataclass(frozen=True)
class AdaptationCurve:
    """What steps on a source do to the loss on it."""

    source: str
    language: str | None

    losses: tuple[float, ...]
    """The mean loss after 0 .. K steps, in bits; infinite from where it diverged."""

    chance: float
    """The loss of a model that has learned nothing, in bits."""

    num_targets: int
    """The masked frames that it is the mean over."""

    @property
    def best_step(self) -> int:
        """The number of steps after which the loss is lowest."""
        return min(range(len(self.losses)), key=lambda k: self.losses[k])


@final
class AdaptationJob:
    """Measures the adaptation curves of a pre-trained model."""

    def __init__(
        self,
        model: str | Path,
        corpus: Path,
        sources: Sequence[str] | None,
        labels: Path | None,
        options: AdaptationOptions,
        *,
        recordings: Mapping[str, Any] | None = None,
        step: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        """
        :param model: As for :func:`~eqssl_speech.models.opening.open_checkpoint`; of the family ``wav2vec2`` or
            ``hubert``, with what it was pre-trained with.
        :param corpus: The corpus; train and valid splits are read.
        :param sources: The sources; by default all.
        :param labels: The labels of a model that predicts some.
        :param options: How it is measured.
        :param recordings: Settings of the section ``dataset`` that say what a recording must be like.
        :param step: The step of a run.
        :param device: Where it is computed; by default the CPU.
        :raises InputError: If the model cannot be adapted, or a source cannot be read.
        """
        checkpoint = open_checkpoint(model, step)

        _require_pretraining(checkpoint, labels)

        self._options = options
        self._config = PretrainConfig(
            loss=_read_loss_section(checkpoint),
            validation=ValidationSection(audio_seconds_per_batch=options.seconds_per_batch),
        )
        dataset = replace(self._config.dataset, **(recordings or {}))
        self._config.dataset = dataset
        dataset.corpus = corpus
        dataset.sources = None if sources is None else list(sources)
        dataset.labels = labels

        self._sources = check_sources(dataset)
        self._device = device or torch.device("cpu")
        self._module = _load_model(checkpoint).to(self._device)
        self._criterion: Criterion = create_criterion(self._module, self._config.loss)
        self._loader = BatchLoader(
            UtteranceReader(dataset.audio_format, on_failure=lambda _: None),
            normalize=expects_normalized_audio(checkpoint.encoder_config),
            labels=self._sources.labels,
        )

        self.checkpoint = checkpoint
        """The model."""

    @property
    def sources(self) -> CheckedSources:
        """What it is measured on."""
        return self._sources

    def run(self, on_progress: Callable[[str], None] = lambda _: None) -> list[AdaptationCurve]:
        """Measure each source by itself; the parameters are put back after each.

        :param on_progress: Is told which source is next.
        """
        curves = []

        for source, train, valid in zip(
            self._sources.corpus.sources, self._sources.train, self._sources.valid, strict=True
        ):
            on_progress(source.name)

            reader = create_adaptation_reader(
                self._config,
                train,
                valid,
                self._loader,
                num_steps=self._options.num_steps,
                num_batches=self._options.num_batches,
            )
            try:
                ((episode,),) = reader
            finally:
                reader.close()

            if episode.is_dead:
                raise InputError(
                    f"Source {source.name}: none of its recordings could be read; see `eqssl check`."
                )

            losses, num_targets = self._measure(episode)

            curves.append(
                AdaptationCurve(
                    source.name,
                    source.language,
                    tuple((losses / _NATS_PER_BIT).tolist()),
                    self._criterion.chance / _NATS_PER_BIT,
                    num_targets,
                )
            )

        return curves

    def _measure(self, episode: Episode) -> tuple[Tensor, int]:
        """Step on the first K batches of an episode, and evaluate all others after each step."""
        for batch in episode.batches:
            batch.to(self._device)

        num_steps = self._options.num_steps
        adapt, evaluate = episode.batches[:num_steps], episode.batches[num_steps:]

        params = [p for p in self._module.parameters() if p.requires_grad]
        loop = InnerLoop(num_inner_steps=1, inner_lr=self._options.lr)

        snapshot = Snapshot([*params, *self._module.buffers()])
        snapshot.take()

        losses = torch.full((num_steps + 1,), math.inf, dtype=torch.float64)

        try:
            losses[0], num_targets = self._evaluate(evaluate)

            for k, batch in enumerate(adapt, 1):
                self._module.train()

                with self._seeded(k):
                    descend(params, [partial(self._loss, batch)], loop)

                losses[k], _ = self._evaluate(evaluate)
        except NonFiniteError:
            pass  # From there on it is infinite.
        finally:
            self._module.eval()
            snapshot.put_back()

        return losses, num_targets

    @torch.no_grad()
    def _evaluate(self, batches: Sequence[SpeechBatch]) -> tuple[float, int]:
        """Return the mean loss of the masked frames, and their number."""
        self._module.eval()

        total, num_targets = 0.0, 0

        # The same masks and distractors after each step, and of each model.
        with self._seeded(0):
            for batch in batches:
                output = self._criterion(self._module, batch)
                total += float(output.main_loss) * output.num_targets
                num_targets += output.num_targets

        return total / num_targets, num_targets

    def _loss(self, batch: SpeechBatch) -> Tensor:
        return self._criterion(self._module, batch).loss

    @contextmanager
    def _seeded(self, step: int) -> Iterator[None]:
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(step)

            yield


def _require_pretraining(checkpoint: SpeechCheckpoint, labels: Path | None) -> None:
    if checkpoint.family == "wav2vec2_asr":
        raise InputError(
            f"{checkpoint.source}: is a recogniser; give the pre-trained model, whose own loss can be adapted."
        )

    if (labels is not None) != (checkpoint.family == "hubert"):
        raise InputError(
            f"{checkpoint.source}: predicts labels; add `--labels DIR`, which `eqssl labels` made."
            if labels is None
            else f"{checkpoint.source}: predicts no labels; leave `--labels` out."
        )


def _read_loss_section(checkpoint: SpeechCheckpoint) -> LossSection:
    """Read the weights that a run was trained with; of other models, the defaults."""
    run_dir = None if checkpoint.run is None else checkpoint.run.run_dir
    config = None if run_dir is None else read_config(run_dir / "config.yaml")

    if config is None or config.get("loss") is None:
        return LossSection()

    try:
        section = StandardValueConverter().structure(config["loss"], LossSection)
    except StructureError as ex:
        raise InputError(
            f"{checkpoint.source}: the section `loss` of config.yaml is damaged ({ex})."
        ) from None

    assert isinstance(section, LossSection)

    return section


def _load_model(checkpoint: SpeechCheckpoint) -> Module:
    module = make_model(checkpoint.family, checkpoint.config)

    missing = [n for n in module.state_dict() if n not in checkpoint.tensors]
    if missing:
        raise InputError(
            f"{checkpoint.source}: has no tensor `{missing[0]}`, without which it has no loss to adapt; give a model "
            "with what it was pre-trained with."
        )

    module.load_state_dict(checkpoint.tensors, strict=False)

    return accelerate(prepare_model(module)).eval()
