"""The fine-tuning recipe: what fairseq2's command line runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Final, final

from fairseq2.gang import ReduceOperation
from fairseq2.logging import log
from fairseq2.metrics.recorders import MetricDescriptor
from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig, Wav2Vec2AsrModel
from fairseq2.recipe.base import Recipe, RecipeContext
from fairseq2.recipe.cli import register_cli_error
from fairseq2.recipe.internal.asset_config import _AssetConfigOverrider
from fairseq2.recipe.internal.model import _ModelHolder
from fairseq2.runtime.dependency import DependencyContainer, DependencyResolver
from fairseq2.task import Task
from fairseq2.world_info import WorldInfo
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from typing_extensions import override

from eqssl_speech.criteria.ctc import CtcCriterion
from eqssl_speech.criteria.group_weights import GroupWeights
from eqssl_speech.data.episodes import EpisodePlanner
from eqssl_speech.data.loading import UtteranceReader
from eqssl_speech.data.transcribed import TranscribedLoader
from eqssl_speech.error import InputError
from eqssl_speech.host import override_provider
from eqssl_speech.models.origin import write_origin
from eqssl_speech.models.wav2vec2 import FreezeSchedule, accelerate, expects_normalized_audio
from eqssl_speech.models.wav2vec2.pretrained import load_encoder
from eqssl_speech.report.sources import render_sources, write_source_rows
from eqssl_speech.tasks.checkpoints import use_trusted_checkpoints
from eqssl_speech.tasks.errors import register_divergence
from eqssl_speech.tasks.finetune.batches import (
    create_planner,
    create_train_reader,
    create_valid_reader,
)
from eqssl_speech.tasks.finetune.blanks import BlankDetector, TrainingState
from eqssl_speech.tasks.finetune.config import FinetuneConfig
from eqssl_speech.tasks.finetune.description import (
    list_sources,
    measure_labels,
    report_left_out,
)
from eqssl_speech.tasks.finetune.metrics import METRIC_DESCRIPTORS
from eqssl_speech.tasks.finetune.model import AdaptedModelConfig
from eqssl_speech.tasks.finetune.preflight import check_run, load_tokenizer
from eqssl_speech.tasks.finetune.sources import (
    TranscribedSources,
    check_transcribed_sources,
)
from eqssl_speech.tasks.finetune.train_unit import FinetuneUnit
from eqssl_speech.tasks.finetune.valid_unit import CtcValidationRound, FinetuneEvalUnit
from eqssl_speech.tasks.finetune.weighting import SourceWeighting
from eqssl_speech.tasks.optimizer import FiniteStepGuard, create_base_optimizer
from eqssl_speech.tasks.output_dir import check_before_writing
from eqssl_speech.tasks.publishing import publish_by_export
from eqssl_speech.tasks.recognizer import save_recognizer
from eqssl_speech.tasks.recordings import handle_input_error, warn_of_failure
from eqssl_speech.tasks.task import TrainingTask
from eqssl_speech.text.tokenizer import CtcTokenizer

_MAX_NUM_NON_FINITE: Final = 10


@final
class FinetuneRecipe(Recipe):
    """Fine-tunes an encoder with CTC on one or many languages."""

    @override
    def register(self, container: DependencyContainer) -> None:
        register_cli_error(container, InputError, handle_input_error)
        register_divergence(container)

        use_trusted_checkpoints(container)
        publish_by_export(container)

        for descriptor in METRIC_DESCRIPTORS:
            container.collection.register_instance(MetricDescriptor, descriptor)

        def read_tokenizer(resolver: DependencyResolver) -> CtcTokenizer:
            return load_tokenizer(_get_config(resolver))

        container.register(CtcTokenizer, read_tokenizer, singleton=True)

        def check(resolver: DependencyResolver) -> TranscribedSources:
            num_ranks = resolver.resolve(WorldInfo).size

            return check_transcribed_sources(
                _get_config(resolver), resolver.resolve(CtcTokenizer), num_ranks
            )

        container.register(TranscribedSources, check, singleton=True)

        check_before_writing(
            container, _get_config, lambda resolver: check_run(resolver, _get_config(resolver))
        )

        def create_optimizer(resolver: DependencyResolver) -> Optimizer:
            optimizer = create_base_optimizer(resolver, _get_config(resolver).optimizer)
            optimizer.register_step_pre_hook(FiniteStepGuard(_MAX_NUM_NON_FINITE))

            return optimizer

        override_provider(container, Optimizer, create_optimizer, singleton=True)

        def adapt_model_config(resolver: DependencyResolver) -> AdaptedModelConfig:
            return AdaptedModelConfig(
                resolver, _get_config(resolver), resolver.resolve(CtcTokenizer)
            )

        container.register(AdaptedModelConfig, adapt_model_config, singleton=True)

        override_provider(container, _AssetConfigOverrider, lambda r: r.resolve(AdaptedModelConfig))

    @override
    def setup_model(self, context: RecipeContext, model: Module, newly_initialized: bool) -> Module:
        config = context.get_config_as(FinetuneConfig)

        assert isinstance(model, Wav2Vec2AsrModel)

        # On all ranks, although the others get the parameters of the first one: a mistake has to end each of them.
        if newly_initialized and config.pretrained is not None:
            adapted = context.resolver.resolve(AdaptedModelConfig)

            report = load_encoder(
                model,
                config.pretrained,
                adapted.model_config.encoder_config,
                num_new_layers=config.num_new_layers,
            )

            log.info(report.render())

        # Before the model is wrapped, and in resumed runs too.
        create_freeze_schedule(config, model).prepare()

        return accelerate(model) if config.model.fast else model

    @override
    def has_static_autograd_graph(self, context: RecipeContext) -> bool:
        config = context.get_config_as(FinetuneConfig)

        return config.pretrained is None or config.freeze.num_encoder_steps == 0

    @override
    def create_task(self, context: RecipeContext) -> Task:
        return _Wiring(context).create_task()

    @property
    @override
    def config_kls(self) -> type[object]:
        return FinetuneConfig


@final
class _Wiring:
    """Puts the parts of a run together."""

    def __init__(self, context: RecipeContext) -> None:
        self._context = context
        self._config = context.get_config_as(FinetuneConfig)
        self._tokenizer = context.resolver.resolve(CtcTokenizer)
        self._sources = context.resolver.resolve(TranscribedSources)

        # The model comes first: it draws from the random state that the host has just seeded.
        self._dp_model = context.get_data_parallel_model()
        self._module = context.get_model_as(Wav2Vec2AsrModel)

        model_config = context.resolver.resolve(_ModelHolder, key="model").config

        assert isinstance(model_config, Wav2Vec2AsrConfig)

        encoder_config = model_config.encoder_config

        self._normalize = expects_normalized_audio(encoder_config)
        # Group norm takes its statistics over the padding too.
        self._padded = encoder_config.feature_extractor_layer_norm_convs

        self._reader = UtteranceReader(
            self._config.dataset.audio_format, on_failure=warn_of_failure
        )
        self._loader = TranscribedLoader(self._reader, normalize=self._normalize)
        self._criterion = CtcCriterion()

    def create_task(self) -> TrainingTask:
        config, gangs = self._config, self._context.gangs

        train = [s.train for s in self._sources.sources]

        planner = create_planner(config, train, num_ranks=gangs.dp.size, rank=gangs.dp.rank)

        if gangs.root.rank == 0:
            self._describe(planner)

        reader = create_train_reader(config, planner, train, self._loader)

        valid_readers = [
            create_valid_reader(
                config,
                source.valid,
                self._loader,
                padded=self._padded,
                rank=gangs.dp.rank,
                num_ranks=gangs.dp.size,
            )
            for source in self._sources.sources
        ]

        trainer = self._context.create_trainer(
            self._create_train_unit(planner), reader, self._create_valid_units(), valid_readers
        )

        return TrainingTask(trainer, [reader, *valid_readers], self._context.output_dir)

    def _create_train_unit(self, planner: EpisodePlanner) -> FinetuneUnit:
        config = self._config

        train = [s.train for s in self._sources.sources]
        groups = [u.source_name for u in train]

        weights = GroupWeights(groups, config.weighting, self._create_all_reduce())

        labels_per_batch = None
        if config.weighting.method != "average":
            num_labels = sum(len(labels) for u in train for labels in u.labels)
            labels_per_sample = num_labels / sum(u.num_samples for u in train)

            labels_per_batch = labels_per_sample * planner.batch_num_samples

        return FinetuneUnit(
            self._dp_model,
            self._criterion,
            SourceWeighting(weights, groups, labels_per_batch, planner.num_episodes),
            train,
            self._context.metric_recorder,
            self._reader.num_bad,
            create_freeze_schedule(self._config, self._module).apply,
            sample_rate=config.dataset.sample_rate,
        )

    def _create_all_reduce(self) -> Callable[[Tensor], None] | None:
        gang = self._context.gangs.dp
        if gang.size == 1:
            return None

        def all_reduce(vector: Tensor) -> None:
            summed = vector.to(gang.device)

            gang.all_reduce(summed, ReduceOperation.SUM)

            vector.copy_(summed)

        return all_reduce

    def _create_valid_units(self) -> list[FinetuneEvalUnit]:
        section = self._config.validation

        detector = BlankDetector(section.num_blank_validations)

        def explain_blanks(rows: Mapping[str, Mapping[str, float]], step_nr: int) -> str | None:
            return detector.observe(rows, self._describe_state(step_nr))

        validation_round = CtcValidationRound(
            [s.source.name for s in self._sources.sources],
            self._context.metric_recorder,
            explain_blanks,
            stop_on_blanks=section.stop_on_blanks,
        )

        return [
            FinetuneEvalUnit(
                source.valid,
                self._module,
                self._criterion,
                self._tokenizer,
                validation_round,
                num_examples=section.num_examples,
            )
            for source in self._sources.sources
        ]

    def _describe_state(self, step_nr: int) -> TrainingState:
        unigram_loss, labels_per_frame = self._label_statistics

        return TrainingState(
            step_nr=step_nr,
            num_encoder_frozen_steps=(
                0 if self._config.pretrained is None else self._config.freeze.num_encoder_steps
            ),
            unigram_loss=unigram_loss,
            labels_per_frame=labels_per_frame,
        )

    @cached_property
    def _label_statistics(self) -> tuple[float, float]:
        # Of millions of utterances this takes seconds.
        return measure_labels([s.train for s in self._sources.sources])

    def _describe(self, planner: EpisodePlanner) -> None:
        config = self._config

        num_batches = planner.num_episodes * self._context.gangs.dp.size

        rows = list_sources(config, self._sources, planner, num_batches)

        log.info("Data sources:\n{}", render_sources(rows))

        write_source_rows(self._context.output_dir, rows)

        if config.pretrained is not None:
            write_origin(self._context.output_dir, config.pretrained)

        save_recognizer(
            self._context.output_dir,
            self._tokenizer,
            sources=[(s.source.name, s.source.language) for s in self._sources.sources],
            sample_rate=config.dataset.sample_rate,
            encoder_type=self._context.resolver.resolve(AdaptedModelConfig).encoder_type,
        )

        log.info(
            "An update has {} batch(es) over {} rank(s), up to {:.2f} s of audio each with padding.",
            num_batches,
            self._context.gangs.dp.size,
            planner.batch_num_samples / config.dataset.sample_rate,
        )

        num_steps = config.regime.num_steps or 0

        if config.pretrained is not None and config.freeze.num_encoder_steps >= num_steps:
            log.warning(
                "The encoder is frozen for {} updates, but the run has {}, so only the output layer learns: lower "
                "`freeze.num_encoder_steps` if the encoder is to learn too.",
                config.freeze.num_encoder_steps,
                num_steps,
            )

        report_left_out(self._sources, self._context.output_dir / "left_out.tsv")


def create_freeze_schedule(config: FinetuneConfig, model: Wav2Vec2AsrModel) -> FreezeSchedule:
    """Create the freezing schedule of a run; without ``pretrained`` nothing is worth keeping as it is."""
    if config.pretrained is None:
        return FreezeSchedule(model, feature_extractor=False)

    return FreezeSchedule(
        model,
        feature_extractor=config.freeze.feature_extractor,
        num_encoder_steps=config.freeze.num_encoder_steps,
    )


def _get_config(resolver: DependencyResolver) -> FinetuneConfig:
    return RecipeContext(resolver).get_config_as(FinetuneConfig)
