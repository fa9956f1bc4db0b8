"""What the optimizers of all training recipes share."""

from __future__ import annotations

from typing import Any

import torch
from fairseq2.logging import log
from fairseq2.recipe.component import ComponentManager
from fairseq2.recipe.config import (
    AdamWConfig,
    CosineAnnealingLRConfig,
    LRSchedulerSection,
    OptimizerSection,
    PolynomialDecayLRConfig,
)
from fairseq2.runtime.dependency import DependencyResolver
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from eqssl_speech.error import InputError
from eqssl_speech.tasks.errors import TrainingDivergedError


def create_base_optimizer(resolver: DependencyResolver, section: OptimizerSection) -> Optimizer:
    """Create the optimizer that a section names."""
    manager = resolver.resolve(ComponentManager)

    return manager.create_component(Optimizer, section.name, section.config)


def check_optimizer(section: OptimizerSection) -> None:
    """Find out without a model whether an optimizer takes its settings.

    :raises InputError: Says which setting it does not take.
    """
    config = section.config
    if not isinstance(config, AdamWConfig):
        return

    try:
        torch.optim.AdamW(
            [torch.zeros(1, requires_grad=True)],
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
        )
    except ValueError as ex:
        raise InputError(f"`optimizer.config` cannot be used: {ex}; correct it.") from None


def check_warm_up(section: LRSchedulerSection, num_steps: int | None) -> None:
    """Find out whether a learning rate that falls to the end of the run has risen before.

    :raises InputError: If not; the host finds that later or not at all, and names a key that there is not.
    """
    config = section.config

    if not isinstance(config, (PolynomialDecayLRConfig, CosineAnnealingLRConfig)):
        return

    if isinstance(config, CosineAnnealingLRConfig) and config.cycle_len is not None:
        return

    if num_steps is not None and config.num_warmup_steps >= num_steps:
        raise InputError(
            f"`lr_scheduler.config.num_warmup_steps` is {config.num_warmup_steps}, but the run has only {num_steps} "
            "updates (`regime.num_steps`): lower the one or raise the other."
        )


class FiniteStepGuard:
    """Leaves out steps whose averaged gradient is not finite, and ends the run after too many in a row."""

    def __init__(self, max_num_in_a_row: int, other_remedy: str | None = None) -> None:
        """
        :param max_num_in_a_row: The number of such steps in a row at which the run stops.
        :param other_remedy: A key to lower besides the learning rate.
        """
        self._max_num_in_a_row = max_num_in_a_row
        self._remedy = "lower the learning rate" + (f" or {other_remedy}" if other_remedy else "")
        self._num_in_a_row = 0

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Serve as a step pre-hook: without gradients, parameters and moments stay as they are."""
        params = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]

        if not params or bool(torch.isfinite(get_total_norm([p.grad for p in params]))):
            self._num_in_a_row = 0

            return

        self._num_in_a_row += 1

        log.warning("The gradient is not finite; this step is left out.")

        if self._num_in_a_row >= self._max_num_in_a_row:
            raise TrainingDivergedError(
                f"The gradient was not finite {self._num_in_a_row} times in a row: {self._remedy} and "
                "resume from the last checkpoint."
            )

        for param in params:
            param.grad = None
