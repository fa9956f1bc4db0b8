"""What can go wrong with a pre-training run is found here: before the first step, and before anything is written."""

from __future__ import annotations

import torch
from fairseq2.models.wav2vec2 import WAV2VEC2_FAMILY
from fairseq2.runtime.dependency import DependencyResolver
from fairseq2.world_info import WorldInfo

from eqssl_speech.error import InputError
from eqssl_speech.models.hubert import HUBERT_FAMILY
from eqssl_speech.tasks.optimizer import check_optimizer, check_warm_up
from eqssl_speech.tasks.pretrain.config import PretrainConfig
from eqssl_speech.tasks.pretrain.model import check_model
from eqssl_speech.tasks.pretrain.optimizer import get_equilibrium_section
from eqssl_speech.tasks.pretrain.sources import CheckedSources, create_planner


def check_run(resolver: DependencyResolver, config: PretrainConfig) -> None:
    """Check configuration and data.

    :raises InputError: If the run cannot start.
    """
    world = resolver.resolve(WorldInfo)

    check_config(config, world.size)

    check_optimizer(config.optimizer)

    check_warm_up(config.lr_scheduler, config.regime.num_steps)

    sources = resolver.resolve(CheckedSources)

    check_model(resolver, config)

    section = get_equilibrium_section(config)

    # Found out now rather than at the first batch: whether the budget of audio fits the sources.
    create_planner(
        config,
        sources.train,
        num_inner_steps=0 if section is None else section.num_inner_steps,
        num_replicas=world.size // replica_size(config, world),
        replica_size=replica_size(config, world),
    )


def replica_size(config: PretrainConfig, world: WorldInfo) -> int:
    """Return how many processes hold one copy of the parameters together."""
    trainer = config.trainer

    if trainer.data_parallelism != "fsdp" or world.size == 1:
        return 1

    return world.local_size if trainer.fsdp.hybrid else world.size


def check_config(config: PretrainConfig, world_size: int) -> None:
    """Refuse what does not go together.

    :param config: The configuration, whose sections are valid each for itself.
    :param world_size: The number of processes.
    :raises InputError: Names the keys and says what to set.
    """
    section = get_equilibrium_section(config)
    adapts = section is not None and section.num_inner_steps > 0
    trainer = config.trainer
    precision = trainer.mixed_precision

    if config.dataset.regime == "mixed" and adapts:
        raise InputError(
            "`dataset.regime` is 'mixed', whose batches belong to no single source, but `equilibrium` asks for inner "
            "steps on one: set `dataset.regime` to 'per_source' or `equilibrium` to null."
        )

    if trainer.grad_accumulation.num_batches != 1:
        raise InputError(
            f"`trainer.grad_accumulation.num_batches` is {trainer.grad_accumulation.num_batches}, but accumulation "
            "follows from the number of episodes: leave it at 1 and set `dataset.episodes_per_source`."
        )

    if trainer.data_parallelism == "fsdp" and trainer.grad_accumulation.no_sync and world_size > 1:
        raise InputError(
            "`trainer.grad_accumulation.no_sync` does not work with sharded parameters: set it to false."
        )

    uses_fp16 = config.model.dtype == torch.float16 or (
        precision.mode != "off" and precision.dtype == torch.float16
    )
    if adapts and uses_fp16:
        raise InputError(
            "Inner steps have no loss scale in float16: set `trainer.mixed_precision.dtype` to bfloat16 (or its `mode` "
            "to 'off')."
        )

    is_sharded = trainer.data_parallelism == "fsdp" and world_size > 1

    if is_sharded and trainer.fsdp.version != "v2":
        raise InputError(
            f"`trainer.fsdp.version` is '{trainer.fsdp.version}', but inner steps work on the parameters of FSDP2 "
            "only: set it to 'v2'."
        )

    if section is not None and adapts and section.order == "exact" and is_sharded:
        raise InputError(
            "`equilibrium.order` is 'exact', which differentiates through inner steps and cannot do so with sharded "
            "parameters: set `trainer.data_parallelism` to 'ddp', or `equilibrium.order` to 'first'."
        )

    if config.regime.num_steps is None:
        raise InputError(
            "`regime.num_steps` is not set, but sources start over at their own pace and never end: set the number of "
            "updates."
        )

    _check_family(config)


def _check_family(config: PretrainConfig) -> None:
    family, labels = config.model.family or WAV2VEC2_FAMILY, config.dataset.labels

    if config.model.name is not None and config.model.path is None:
        # The asset says of which family it is, and so `LabelledModelConfig` judges.
        return

    if family not in (WAV2VEC2_FAMILY, HUBERT_FAMILY):
        raise InputError(
            f"`model.family` is '{family}', but pre-training supports '{WAV2VEC2_FAMILY}' and '{HUBERT_FAMILY}' only."
        )

    if family == HUBERT_FAMILY and labels is None:
        raise InputError(
            "`model.family` is 'hubert', which predicts labels, but `dataset.labels` is not set: make them with "
            "`eqssl labels CORPUS DIR` and add `--config dataset.labels=DIR`."
        )

    if family != HUBERT_FAMILY and labels is not None:
        raise InputError(
            f"`dataset.labels` is set, but a model of the family '{family}' takes no labels: leave it out, or set "
            "`model.family` to 'hubert'."
        )

    if family != HUBERT_FAMILY and config.loss.unmasked_weight != 0.0:
        raise InputError(
            f"`loss.unmasked_weight` is {config.loss.unmasked_weight}, but a model of the family '{family}' is told of "
            "masked frames only: leave it out."
        )
