"""The pre-training recipe: what fairseq2's command line runs."""

from __future__ import annotations

from typing import final

from fairseq2.logging import log
from fairseq2.metrics.recorders import MetricDescriptor
from fairseq2.models.wav2vec2 import Wav2Vec2Model
from fairseq2.recipe.base import Recipe, RecipeContext
from fairseq2.recipe.cli import register_cli_error
from fairseq2.recipe.internal.asset_config import _AssetConfigOverrider
from fairseq2.recipe.internal.model import _ModelHolder
from fairseq2.runtime.dependency import DependencyContainer, DependencyResolver
from fairseq2.task import Task
from torch.nn import Module
from torch.optim import Optimizer
from typing_extensions import override

from eqssl_speech.criteria.base import Criterion, LossSection
from eqssl_speech.criteria.hubert import HubertCriterion
from eqssl_speech.criteria.wav2vec2 import Wav2Vec2Criterion
from eqssl_speech.data.loading import BatchLoader, UtteranceReader
from eqssl_speech.equilibrium import GradientSketch, InnerLoop
from eqssl_speech.error import InputError
from eqssl_speech.host import override_provider
from eqssl_speech.models.hubert import HubertModel
from eqssl_speech.models.origin import write_origin
from eqssl_speech.models.wav2vec2 import (
    accelerate,
    expects_normalized_audio,
    make_twice_differentiable,
    prepare_model,
)
from eqssl_speech.report.sources import SourceRow, render_sources, write_source_rows
from eqssl_speech.tasks.checkpoints import use_trusted_checkpoints
from eqssl_speech.tasks.errors import register_divergence
from eqssl_speech.tasks.output_dir import check_before_writing
from eqssl_speech.tasks.pretrain.config import EquilibriumSection, PretrainConfig
from eqssl_speech.tasks.pretrain.episode_loss import EpisodeLoss
from eqssl_speech.tasks.pretrain.lost_episodes import LostEpisodeWatch
from eqssl_speech.tasks.pretrain.metrics import METRIC_DESCRIPTORS
from eqssl_speech.tasks.pretrain.model import LabelledModelConfig
from eqssl_speech.tasks.pretrain.optimizer import (
    create_optimizer,
    create_replica,
    get_equilibrium_section,
)
from eqssl_speech.tasks.pretrain.preflight import check_run
from eqssl_speech.tasks.pretrain.sources import (
    MIXED,
    CheckedSources,
    check_sources,
    create_planner,
    create_train_reader,
    share_sources,
)
from eqssl_speech.tasks.pretrain.train_unit import PretrainUnit
from eqssl_speech.tasks.pretrain.valid_readers import create_valid_reader
from eqssl_speech.tasks.pretrain.valid_unit import PretrainEvalUnit, ValidationRound
from eqssl_speech.tasks.publishing import publish_by_export
from eqssl_speech.tasks.recordings import handle_input_error, warn_of_failure
from eqssl_speech.tasks.stopping import Maximum
from eqssl_speech.tasks.task import TrainingTask


@final
class PretrainRecipe(Recipe):
    """Pre-trains on many data sources, conventionally or under equilibrium constraints."""

    @override
    def register(self, container: DependencyContainer) -> None:
        register_cli_error(container, InputError, handle_input_error)
        register_divergence(container)

        use_trusted_checkpoints(container)
        publish_by_export(container)

        for descriptor in METRIC_DESCRIPTORS:
            container.collection.register_instance(MetricDescriptor, descriptor)

        def check(resolver: DependencyResolver) -> CheckedSources:
            return check_sources(_get_config(resolver).dataset)

        container.register(CheckedSources, check, singleton=True)

        check_before_writing(
            container, _get_config, lambda resolver: check_run(resolver, _get_config(resolver))
        )

        def create(resolver: DependencyResolver) -> Optimizer:
            return create_optimizer(resolver, _get_config(resolver))

        override_provider(container, Optimizer, create, singleton=True)

        def fit_model_config(resolver: DependencyResolver) -> LabelledModelConfig:
            return LabelledModelConfig(
                resolver, resolver.resolve(CheckedSources), _get_config(resolver).pretrained
            )

        container.register(LabelledModelConfig, fit_model_config, singleton=True)

        override_provider(
            container, _AssetConfigOverrider, lambda r: r.resolve(LabelledModelConfig)
        )

    @override
    def setup_model(self, context: RecipeContext, model: Module, newly_initialized: bool) -> Module:
        config = context.get_config_as(PretrainConfig)
        section = get_equilibrium_section(config)

        exact = section is not None and section.order == "exact"

        # On all ranks, although the others get the parameters of the first one: a mistake has to end each of them.
        fitted = context.resolver.resolve(LabelledModelConfig)

        report = fitted.load(model) if newly_initialized else None
        if report is not None:
            log.info(report.render())

        fitted.release()

        if exact:
            make_twice_differentiable(model)

        model = prepare_model(model)

        return accelerate(model, twice_differentiable=exact) if config.model.fast else model

    @override
    def create_task(self, context: RecipeContext) -> Task:
        return _Wiring(context).create_task()

    @property
    @override
    def config_kls(self) -> type[object]:
        return PretrainConfig


@final
class _Wiring:
    """Puts the parts of a run together."""

    def __init__(self, context: RecipeContext) -> None:
        self._context = context
        self._config = context.get_config_as(PretrainConfig)
        self._section = get_equilibrium_section(self._config)
        self._sources = context.resolver.resolve(CheckedSources)

        # The model comes first: it draws from the random state that the host has just seeded.
        self._dp_model = context.get_data_parallel_model()
        self._module = context.get_model_as(Module)
        self._optimizer = context.get_optimizer()

        self._criterion = create_criterion(self._module, self._config.loss)

        model_config = context.resolver.resolve(_ModelHolder, key="model").config

        self._reader = UtteranceReader(
            self._config.dataset.audio_format, on_failure=warn_of_failure
        )

        self._loader = BatchLoader(
            self._reader,
            normalize=expects_normalized_audio(model_config.encoder_config),  # type: ignore[attr-defined]
            labels=self._sources.labels,
            pin_memory=context.gangs.root.device.type == "cuda",
        )

    def create_task(self) -> TrainingTask:
        config, gangs = self._config, self._context.gangs

        planner, layout, streams = create_planner(
            config,
            self._sources.train,
            num_inner_steps=0 if self._section is None else self._section.num_inner_steps,
            num_replicas=gangs.rdp.size,
            replica=gangs.rdp.rank,
            replica_size=gangs.sdp.size,
            rank_in_replica=gangs.sdp.rank,
        )

        self._log_sources(planner.shares)

        log.info(
            "An update has {:g} s of audio: {} episode(s), {} on each of {} replica(s) of {} rank(s), one after the "
            "other, with {} batch(es) of {:.2f} s on each rank.",
            config.dataset.audio_seconds_per_update,
            planner.num_episodes * layout.num_replicas,
            planner.num_episodes,
            layout.num_replicas,
            layout.replica_size,
            layout.num_batches,
            planner.batch_num_samples / config.dataset.sample_rate,
        )

        labels = self._sources.labels

        reader = create_train_reader(
            config, planner, streams, self._loader, None if labels is None else labels.digest
        )

        validation_round = ValidationRound(
            [u.source_name for u in self._sources.valid],
            self._context.metric_recorder,
            stop_on_collapse=config.validation.stop_on_collapse,
        )

        valid_readers = [
            create_valid_reader(
                config, train, valid, self._loader, rank=gangs.dp.rank, num_ranks=gangs.dp.size
            )
            for train, valid in zip(self._sources.train, self._sources.valid)
        ]

        trainer = self._context.create_trainer(
            self._create_train_unit([u.source_name for u in streams], planner.num_episodes),
            reader,
            [self._create_valid_unit(u.source_name, validation_round) for u in self._sources.valid],
            valid_readers,
        )

        return TrainingTask(trainer, [reader, *valid_readers], self._context.output_dir)

    def _create_train_unit(self, source_names: list[str], num_episodes: int) -> PretrainUnit:
        section, dataset = self._section, self._config.dataset

        episode_loss = EpisodeLoss(
            self._dp_model,
            self._module,
            self._criterion,
            self._optimizer,
            order="first" if section is None else section.order,
            outer_weights="last" if section is None else section.outer_weights,  # type: ignore[arg-type]
            replica=create_replica(self._dp_model),
            max_rise=None if section is None else section.max_inner_loss_rise,
        )

        sketch = None
        if num_episodes > 1 and len(source_names) > 1:
            sketch = GradientSketch([p for p in self._module.parameters() if p.requires_grad])

        return PretrainUnit(
            episode_loss,
            self._criterion,
            self._optimizer,
            source_names,
            self._context.metric_recorder,
            self._reader.num_bad,
            self._create_watch(source_names),
            num_episodes=num_episodes,
            sample_rate=dataset.sample_rate,
            proportional=dataset.source_weighting == "proportional",
            sketch=sketch,
        )

    def _create_watch(self, source_names: list[str]) -> LostEpisodeWatch:
        # Of a run without the section, its defaults.
        section = self._section or EquilibriumSection()
        gang = self._context.gangs.root

        return LostEpisodeWatch(
            source_names,
            section.on_divergence,
            max_num_in_a_row=section.max_num_non_finite,
            maximum=None if gang.size == 1 else Maximum(gang),
        )

    def _create_valid_unit(
        self, source_name: str, validation_round: ValidationRound
    ) -> PretrainEvalUnit:
        section = self._config.validation

        loop = None
        if section.num_adaptation_steps > 0:
            loop = InnerLoop(
                num_inner_steps=section.num_adaptation_steps, inner_lr=section.adaptation_lr
            )

        return PretrainEvalUnit(source_name, self._module, self._criterion, loop, validation_round)

    def _log_sources(self, shares: tuple[float, ...]) -> None:
        if self._context.gangs.root.rank != 0:
            return

        rows = list_sources(self._config, self._sources, shares)

        log.info("Data sources:\n{}", render_sources(rows))

        write_source_rows(self._context.output_dir, rows)

        if self._config.pretrained is not None:
            write_origin(self._context.output_dir, self._config.pretrained)

        for name, number in self._sources.num_unlabelled.items():
            log.warning(
                "Source {}: {} recording(s) have no labels, because they could not be read when labels were made, and "
                "are left out.",
                name,
                number,
            )

        for report in self._sources.reports:
            for bad in report.bad:
                log.warning("Left out ({}): {}", bad.reason, bad.message)


def create_criterion(module: Module, section: LossSection) -> Criterion:
    """Create the loss that a model is pre-trained with.

    :param module: A model of the family ``wav2vec2`` or ``hubert``, not a wrapper of it.
    :param section: The weights of the terms.
    """
    if isinstance(module, HubertModel):
        return HubertCriterion(module, section)

    assert isinstance(
        module, Wav2Vec2Model
    )  # What else there is, `LabelledModelConfig` has refused.

    return Wav2Vec2Criterion(module, section)


def list_sources(
    config: PretrainConfig, sources: CheckedSources, shares: tuple[float, ...]
) -> list[SourceRow]:
    """Describe the sources of a run and how often it will go through each."""
    hours = [u.num_samples / config.dataset.sample_rate / 3600 for u in sources.train]

    if config.dataset.regime == MIXED:
        shares = tuple(map(float, share_sources(config.dataset, sources.train)))

    trained_hours = (config.regime.num_steps or 0) * config.dataset.audio_seconds_per_update / 3600

    rows = []

    for source, utterances, duration, share in zip(
        sources.corpus.sources, sources.train, hours, shares
    ):
        rows.append(
            SourceRow(
                name=source.name,
                language=source.language,
                domain=source.domain,
                licence=source.licence,
                hours=duration,
                utterances=len(utterances.lengths),
                num_bad=sum(r.num_bad for r in sources.reports if r.source == source.name),
                share=share,
                expected_passes=share * trained_hours / duration,
            )
        )

    return rows


def _get_config(resolver: DependencyResolver) -> PretrainConfig:
    return RecipeContext(resolver).get_config_as(PretrainConfig)
