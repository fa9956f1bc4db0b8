"""The optimizer component ``equilibrium`` and how a run comes to have it."""

from __future__ import annotations

from typing import Any

import torch
from fairseq2.logging import log
from fairseq2.recipe.component import ComponentManager
from fairseq2.recipe.config import OptimizerSection
from fairseq2.runtime.dependency import DependencyResolver
from torch.nn import Module
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from eqssl_speech.equilibrium import EquilibriumOptimizer
from eqssl_speech.error import InputError
from eqssl_speech.tasks.pretrain.config import (
    EquilibriumOptimizerConfig,
    EquilibriumSection,
    PretrainConfig,
)
from eqssl_speech.tasks.pretrain.errors import TrainingDivergedError

EQUILIBRIUM_OPTIMIZER = "equilibrium"
"""The name of the optimizer component."""


def create_equilibrium_optimizer(
    resolver: DependencyResolver, config: EquilibriumOptimizerConfig
) -> EquilibriumOptimizer:
    """Create the optimizer component ``equilibrium`` around the base that its configuration names."""
    return wrap_optimizer(resolver, _create(resolver, config.base), config)


def wrap_optimizer(
    resolver: DependencyResolver, base: Optimizer, section: EquilibriumSection
) -> EquilibriumOptimizer:
    """Wrap an optimizer as an equilibrium section asks for."""
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
        buffers=resolver.resolve(Module).buffers(),
    )


def create_optimizer(resolver: DependencyResolver, config: PretrainConfig) -> Optimizer:
    """Create the optimizer of a pre-training run, wrapped if its equilibrium section is on."""
    optimizer = _create(resolver, config.optimizer)

    section = get_equilibrium_section(config)

    optimizer.register_step_pre_hook(
        FiniteStepGuard(10 if section is None else section.max_num_non_finite)
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


def _create(resolver: DependencyResolver, section: OptimizerSection) -> Optimizer:
    manager = resolver.resolve(ComponentManager)

    return manager.create_component(Optimizer, section.name, section.config)


class FiniteStepGuard:
    """Leaves out steps whose averaged gradient is not finite, and ends the run after too many in a row."""

    def __init__(self, max_num_in_a_row: int) -> None:
        """:param max_num_in_a_row: The number of such steps in a row at which the run stops."""
        self._max_num_in_a_row = max_num_in_a_row
        self._num_in_a_row = 0

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Serve as a step pre-hook: without gradients, parameters and moments stay as they are."""
        params = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]

        if not params or bool(torch.isfinite(get_total_norm([p.grad for p in params]))):
            self._num_in_a_row = 0

            return

        self._num_in_a_row += 1

        log.warning("The outer gradient is not finite; this step is left out.")

        if self._num_in_a_row >= self._max_num_in_a_row:
            raise TrainingDivergedError(
                f"The outer gradient was not finite {self._num_in_a_row} times in a row: lower the learning rate or "
                "`equilibrium.inner_lr` and resume from the last checkpoint."
            )

        for param in params:
            param.grad = None
