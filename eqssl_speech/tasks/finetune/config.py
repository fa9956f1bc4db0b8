"""The configuration of a fine-tuning run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from fairseq2.recipe.config import (
    ADAMW_OPTIMIZER,
    TRI_STAGE_LR,
    AdamWConfig,
    CommonSection,
    GangSection,
    LRSchedulerSection,
    MixedPrecisionConfig,
    OptimizerSection,
    RegimeSection,
    TrainerSection,
    TriStageLRConfig,
)
from fairseq2.utils.validation import Validatable, ValidationResult

from eqssl_speech.criteria.group_weights import GroupWeightingSection
from eqssl_speech.tasks.sections import (
    AudioSourcesSection,
    SpeechModelSection,
    require_at_least,
    require_positive,
)

SCORE_METRIC = "macro_cer"
"""What the best checkpoint is chosen by, in percent; lower is better."""


@dataclass(kw_only=True)
class TranscribedSourcesSection(AudioSourcesSection):
    """The data sources, their text, and how batches are made of them. A batch holds one source, whole utterances, and
    as many as fit into its share of ``audio_seconds_per_update`` with their padding; recordings that are longer than
    that or than ``max_audio_s`` are left out, counted and named."""

    min_audio_s: float = 0.62
    """Shorter recordings are left out, counted and named."""

    batches_per_source: int = 1
    """How many batches a source of an update has; raised where the number of ranks asks for it."""

    max_minutes_per_source: float | None = None
    """If set, so many minutes of each source's training split are used: the same ones in every run, and all of a
    smaller number are among those of a larger."""

    train_split: str = "train"
    """The split to train on."""

    valid_split: str = "valid"
    """The split to validate on."""

    def validate(self) -> ValidationResult:
        """Check every field; errors name the field, the rule and the value."""
        result = super().validate()

        require_at_least(result, self, 1, "batches_per_source")

        if self.max_minutes_per_source is not None:
            require_positive(result, self, "max_minutes_per_source")

        return result


@dataclass(kw_only=True)
class FreezeSection(Validatable):
    """What stays as it was pre-trained. A run without ``pretrained`` freezes nothing."""

    feature_extractor: bool = True
    """Whether the convolutions stay so for the whole run, as is usual (arXiv 2006.11477, section 4.3)."""

    num_encoder_steps: int = 0
    """The number of updates at the start in which only the new output layer is trained."""

    def validate(self) -> ValidationResult:
        """Check every field; errors name the field, the rule and the value."""
        result = ValidationResult()

        require_at_least(result, self, 0, "num_encoder_steps")

        return result


@dataclass(kw_only=True)
class CtcValidationSection(Validatable):
    """What is measured on the validation split of every source."""

    audio_seconds_per_batch: float = 60.0
    """Seconds of audio of a batch with its padding. Models with group norm take one utterance at a time instead: their
    output would depend on the padding."""

    max_num_utterances: int | None = None
    """At most so many utterances per source, the same ones each time; ``null`` for all."""

    num_examples: int = 3
    """How many utterances of a source are shown with what the model makes of them."""

    num_blank_validations: int = 3
    """After so many validations in a row in which a model emits blanks only, the run says so and why it may be."""

    stop_on_blanks: bool = False
    """Whether the run stops then."""

    def validate(self) -> ValidationResult:
        """Check every field; errors name the field, the rule and the value."""
        result = ValidationResult()

        require_positive(result, self, "audio_seconds_per_batch")
        require_at_least(result, self, 0, "num_examples")
        require_at_least(result, self, 1, "num_blank_validations")

        if self.max_num_utterances is not None:
            require_at_least(result, self, 1, "max_num_utterances")

        return result


@dataclass(kw_only=True)
class FinetuneConfig:
    """A fine-tuning run. Schedules default to those of wav2vec 2.0 base on 10 hours (arXiv 2006.11477, table 6)."""

    model: SpeechModelSection = field(
        default_factory=lambda: SpeechModelSection(family="wav2vec2_asr", arch="base_10h")
    )
    """``arch`` says how the model is regularised and masked; its shape is that of ``pretrained``, if there is one, and
    its vocabulary that of ``tokenizer``."""

    pretrained: str | None = None
    """Where the encoder comes from: the output directory of `eqssl pretrain`, one of its ``step_N`` directories, the
    name of a fairseq2 asset, or a file of parameters. ``null`` starts from random weights."""

    num_new_layers: int = 0
    """How many of the encoder's last layers start from random weights as well. The last ones serve the pre-training's
    objective most; new ones lower error rates where labels are few (arXiv 2107.04734). Nothing without
    ``pretrained``."""

    tokenizer: Path | None = None
    """The directory that `eqssl tokenizer` made; copied into the output directory."""

    dataset: TranscribedSourcesSection = field(default_factory=TranscribedSourcesSection)

    weighting: GroupWeightingSection = field(default_factory=GroupWeightingSection)

    freeze: FreezeSection = field(default_factory=FreezeSection)

    validation: CtcValidationSection = field(default_factory=CtcValidationSection)

    gang: GangSection = field(default_factory=GangSection)

    trainer: TrainerSection = field(
        default_factory=lambda: TrainerSection(
            mixed_precision=MixedPrecisionConfig(mode="off", dtype=torch.bfloat16)
        )
    )

    optimizer: OptimizerSection = field(
        default_factory=lambda: OptimizerSection(
            name=ADAMW_OPTIMIZER,
            config=AdamWConfig(lr=5e-5, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.0),
        )
    )

    lr_scheduler: LRSchedulerSection = field(
        default_factory=lambda: LRSchedulerSection(
            name=TRI_STAGE_LR,
            config=TriStageLRConfig(
                stage_ratio=(0.1, 0.4, 0.5), start_lr_scale=0.01, final_lr_scale=0.05
            ),
        )
    )

    regime: RegimeSection = field(
        default_factory=lambda: RegimeSection(
            num_steps=20_000,
            validate_every_n_steps=1_000,
            checkpoint_every_n_steps=1_000,
            publish_metrics_every_n_steps=200,
            score_metric=SCORE_METRIC,
            keep_best_n_checkpoints=1,
            keep_last_n_checkpoints=1,
        )
    )

    common: CommonSection = field(default_factory=lambda: CommonSection(no_sweep_dir=True))
