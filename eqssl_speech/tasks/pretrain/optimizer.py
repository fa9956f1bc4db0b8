"""The optimizer component ``equilibrium`` and how a run comes to have it."""

from __future__ import annotations

from fairseq2.runtime.dependency import DependencyResolver
from torch.distributed.fsdp import FSDPModule
from torch.nn import Module
from torch.optim import Optimizer

from eqssl_speech.equilibrium import EquilibriumOptimizer, Replica, ShardedReplica
from eqssl_speech.error import InputError
from eqssl_speech.tasks.optimizer import FiniteStepGuard, create_base_optimizer
from eqssl_speech.tasks.pretrain.config import (
    EquilibriumOptimizerConfig,
    EquilibriumSection,
    PretrainConfig,
)

EQUILIBRIUM_OPTIMIZER = "equilibrium"
"""The name of the optimizer component."""


def create_equilibrium_optimizer(
    resolver: DependencyResolver, config: EquilibriumOptimizerConfig
) -> EquilibriumOptimizer:
    """Create the optimizer component ``equilibrium`` around the base that its configuration names."""
    return wrap_optimizer(resolver, create_base_optimizer(resolver, config.base), config)


def wrap_optimizer(
    resolver: DependencyResolver, base: Optimizer, section: EquilibriumSection
) -> EquilibriumOptimizer:
    """Wrap an optimizer as an equilibrium section asks for."""
    model = resolver.resolve(Module)

    return EquilibriumOptimizer(
        base,
        num_inner_steps=section.num_inner_steps,
        inner_lr=section.inner_lr,
        inner_max_grad_norm=section.inner_max_grad_norm,
        normalize_inner_grad=section.normalize_inner_grad,
        precondition=section.precondition,
        outer_weights=section.outer_weights,  # type: ignore[arg-type]
        start_after_num_steps=section.start_after_num_steps,
        num_inner_warmup_steps=section.num_inner_warmup_steps,
        buffers=model.buffers(),
        replica=create_replica(model),
    )


def create_replica(model: Module) -> Replica:
    """Find out where the parameters of a model lie that the host has wrapped."""
    return ShardedReplica(model) if isinstance(model, FSDPModule) else Replica()


def create_optimizer(resolver: DependencyResolver, config: PretrainConfig) -> Optimizer:
    """Create the optimizer of a pre-training run, wrapped if its equilibrium section is on."""
    optimizer = create_base_optimizer(resolver, config.optimizer)

    section = get_equilibrium_section(config)

    optimizer.register_step_pre_hook(
        FiniteStepGuard(
            10 if section is None else section.max_num_non_finite, "`equilibrium.inner_lr`"
        )
    )

    if section is None or config.optimizer.name == EQUILIBRIUM_OPTIMIZER:
        return optimizer

    return wrap_optimizer(resolver, optimizer, section)


def get_equilibrium_section(config: PretrainConfig) -> EquilibriumSection | None:
    """Return the settings of the method, from the section or from the optimizer component; ``None`` if it is off.

    :raises InputError: If both are given.
    """
    if config.optimizer.name != EQUILIBRIUM_OPTIMIZER:
        return config.equilibrium

    if config.equilibrium is not None:
        raise InputError(
            "Both the section `equilibrium` and the optimizer `equilibrium` are set: set `equilibrium` to null, or "
            "`optimizer.name` to the base optimizer."
        )

    assert isinstance(config.optimizer.config, EquilibriumOptimizerConfig)

    return config.optimizer.config
