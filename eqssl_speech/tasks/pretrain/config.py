"""The configuration of a pre-training run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from fairseq2.recipe.config import (
    ADAMW_OPTIMIZER,
    POLYNOMIAL_DECAY_LR,
    AdamWConfig,
    CommonSection,
    GangSection,
    LRSchedulerSection,
    MixedPrecisionConfig,
    OptimizerSection,
    PolynomialDecayLRConfig,
    RegimeSection,
    TrainerSection,
)
from fairseq2.utils.validation import Validatable, ValidationResult

from eqssl_speech.criteria.base import LossSection
from eqssl_speech.equilibrium import InnerLoop, resolve_outer_weights
from eqssl_speech.tasks.sections import (
    AudioSourcesSection,
    SpeechModelSection,
    require_at_least,
    require_positive,
)


@dataclass(kw_only=True)
class EquilibriumSection(Validatable):
    """How the model adapts to each source; ``null`` instead of this section is conventional training."""

    num_inner_steps: int = 1
    """K, the gradient steps taken on a source before its outer gradient. 0 is conventional training."""

    inner_lr: float = 0.03
    """The step size of the inner loop, greater than 0."""

    outer_weights: str | list[float] = "uniform"
    """The weights of the gradients at phi^0 .. phi^K: ``last`` (the paper), ``uniform`` (Reptile's direction),
    ``first`` (conventional), or K+1 numbers."""

    order: Literal["first", "exact"] = "first"
    """Whether the inner steps are differentiated through. ``exact`` is for small models."""

    inner_max_grad_norm: float | None = None
    """If set, inner gradients of a larger norm are scaled down to it."""

    normalize_inner_grad: bool = False
    """If ``True``, every inner gradient is scaled to norm 1."""

    precondition: bool = False
    """If ``True``, inner gradients are divided by the root of the base optimizer's second moments."""

    start_after_num_steps: int = 0
    """The number of outer steps of conventional training before the first inner step."""

    num_inner_warmup_steps: int = 0
    """The number of outer steps after that over which ``inner_lr`` rises from 0."""

    max_inner_loss_rise: float | None = None
    """If set, inner steps are taken to explode where the loss along them exceeds this many times the loss at theta (or
    this many nats, where that is less than 1). Greater than 1. As each loss is of another batch, leave room for how
    much batches differ: 2 does. ``null`` does not look."""

    on_divergence: Literal["skip", "stop", "lower_inner_lr"] = "skip"
    """What comes of an episode whose inner steps explode, or in which a loss or a gradient is not finite. ``skip``: it
    contributes nothing and is counted. ``stop``: the run stops. ``lower_inner_lr``: as ``skip``, and where the inner
    steps have brought it about, ``inner_lr`` is halved for that source from the next update to the end of the run, ten
    times at most."""

    max_num_non_finite: int = 10
    """The run stops after so many such episodes in a row on one rank, at least 1. Those for which ``inner_lr`` is
    halved are left out of the count."""

    def validate(self) -> ValidationResult:
        """Check every field; errors name the field, the rule and the value."""
        result = ValidationResult()

        try:
            InnerLoop(
                num_inner_steps=self.num_inner_steps,
                inner_lr=self.inner_lr,
                inner_max_grad_norm=self.inner_max_grad_norm,
            )

            resolve_outer_weights(self.outer_weights, self.num_inner_steps)  # type: ignore[arg-type]
        except ValueError as ex:
            result.add_error(str(ex))

        if self.num_inner_steps == 0 and not self.inner_lr > 0.0:
            result.add_error(f"`inner_lr` must be greater than 0, but is {self.inner_lr} instead.")

        require_at_least(result, self, 0, "start_after_num_steps", "num_inner_warmup_steps")
        require_at_least(result, self, 1, "max_num_non_finite")

        if self.max_inner_loss_rise is not None and not 1.0 < self.max_inner_loss_rise < math.inf:
            result.add_error(
                "`max_inner_loss_rise` must be greater than 1 and finite, but is "
                f"{self.max_inner_loss_rise} instead."
            )

        if self.order == "exact" and (
            self.precondition
            or self.normalize_inner_grad
            or self.inner_max_grad_norm is not None
            or self.start_after_num_steps > 0
            or self.num_inner_warmup_steps > 0
        ):
            result.add_error(
                "`order` 'exact' differentiates through plain inner steps only; leave `precondition`, "
                "`normalize_inner_grad`, `inner_max_grad_norm`, `start_after_num_steps` and "
                "`num_inner_warmup_steps` at their defaults."
            )

        return result


@dataclass(kw_only=True)
class EquilibriumOptimizerConfig(EquilibriumSection):
    """The configuration of the optimizer component ``equilibrium``."""

    base: OptimizerSection = field(
        default_factory=lambda: OptimizerSection(name=ADAMW_OPTIMIZER, config=AdamWConfig())
    )
    """The wrapped optimizer: any registered component and its configuration."""


@dataclass(kw_only=True)
class SourcesSection(AudioSourcesSection):
    """The data sources and how batches are made of them. Longer recordings than ``max_audio_s`` are cropped at a
    random place."""

    regime: Literal["per_source", "mixed"] = "per_source"
    """``per_source``: a batch holds one source. ``mixed``: batches hold all sources (conventional training only)."""

    labels: Path | list[Path] | None = None
    """HuBERT: the directory of `eqssl labels`, or several, each a set of labels of all these sources, which are
    predicted at once."""

    episodes_per_source: int = 1
    """How many episodes a source of an update has; raised where the number of ranks asks for it."""

    source_weighting: Literal["uniform", "proportional"] = "uniform"
    """Whether each episode counts alike in the outer gradient or by its number of targets."""

    rehearsal_sources: list[str] = field(default_factory=list)
    """Sources that the model has been trained on before, which take part so that it does not forget them. They are
    drawn for ``rehearsal_share`` of the episodes, the others for the rest."""

    rehearsal_share: float = 0.2
    """See ``rehearsal_sources``. *Range:* (0, 1)."""

    on_dead_source: Literal["stop", "skip"] = "stop"
    """What comes of a source none of whose recordings can be read any more during the run. ``stop``: the run stops.
    ``skip``: it goes on, unless that is so of all sources; episodes of the source contribute nothing and are counted,
    its validation loss is infinite, and it takes part again as soon as its recordings can be read."""

    def validate(self) -> ValidationResult:
        """Check every field; errors name the field, the rule and the value."""
        result = super().validate()

        require_at_least(result, self, 1, "episodes_per_source")

        if not 0.0 < self.rehearsal_share < 1.0:
            result.add_error(
                f"`rehearsal_share` must be greater than 0 and less than 1, but is {self.rehearsal_share} instead."
            )

        if self.rehearsal_sources and self.regime == "per_source" and self.sources_per_step is None:
            result.add_error(
                "`rehearsal_sources` needs `sources_per_step`: without it each source has its turn in every update."
            )

        return result


@dataclass(kw_only=True)
class ValidationSection(Validatable):
    """What is measured on the validation split of every source, besides the loss at theta."""

    num_adaptation_steps: int = 0
    """Gradient steps on training batches of the source before a second measurement. 0 measures at theta only."""

    adaptation_lr: float = 0.03
    """The step size of those steps, greater than 0."""

    audio_seconds_per_batch: float = 30.0
    """Seconds of audio of a validation batch, and of a batch that is adapted on."""

    max_num_batches: int | None = None
    """At most so many validation batches per source; ``null`` for all."""

    stop_on_collapse: bool = False
    """Whether the run stops when the collapse detector sees something."""

    def validate(self) -> ValidationResult:
        """Check every field; errors name the field, the rule and the value."""
        result = ValidationResult()

        require_at_least(result, self, 0, "num_adaptation_steps")

        require_positive(result, self, "adaptation_lr", "audio_seconds_per_batch")

        if self.max_num_batches is not None:
            require_at_least(result, self, 1, "max_num_batches")

        return result


@dataclass(kw_only=True)
class PretrainConfig:
    """A pre-training run. Losses and schedules default to those of wav2vec 2.0 base (arXiv 2006.11477)."""

    model: SpeechModelSection = field(
        default_factory=lambda: SpeechModelSection(family="wav2vec2", arch="base")
    )

    pretrained: str | None = None
    """The model to go on from, whose shape it gives to this one: a run of `eqssl pretrain` or `eqssl finetune`, a
    directory of Hugging Face transformers, a file of tensors (also of fairseq), or a fairseq2 asset. Optimizer and
    schedule start anew."""

    dataset: SourcesSection = field(default_factory=SourcesSection)

    equilibrium: EquilibriumSection | None = field(default_factory=EquilibriumSection)

    loss: LossSection = field(default_factory=LossSection)

    validation: ValidationSection = field(default_factory=ValidationSection)

    gang: GangSection = field(default_factory=GangSection)

    trainer: TrainerSection = field(
        default_factory=lambda: TrainerSection(
            mixed_precision=MixedPrecisionConfig(mode="off", dtype=torch.bfloat16)
        )
    )

    optimizer: OptimizerSection = field(
        default_factory=lambda: OptimizerSection(
            name=ADAMW_OPTIMIZER,
            config=AdamWConfig(lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01),
        )
    )

    lr_scheduler: LRSchedulerSection = field(
        default_factory=lambda: LRSchedulerSection(
            name=POLYNOMIAL_DECAY_LR, config=PolynomialDecayLRConfig(num_warmup_steps=32_000)
        )
    )

    regime: RegimeSection = field(
        default_factory=lambda: RegimeSection(
            num_steps=400_000,
            validate_every_n_steps=5_000,
            checkpoint_every_n_steps=25_000,
            publish_metrics_every_n_steps=200,
        )
    )

    common: CommonSection = field(default_factory=lambda: CommonSection(no_sweep_dir=True))
