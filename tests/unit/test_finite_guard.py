"""A gradient that is not finite must not reach parameters or moments."""

from __future__ import annotations

import pytest
import torch

from eqssl_speech.equilibrium import EquilibriumOptimizer
from eqssl_speech.tasks.errors import TrainingDivergedError
from eqssl_speech.tasks.optimizer import FiniteStepGuard


@pytest.fixture
def param() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(5, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_step_with_a_gradient_that_is_not_finite_is_left_out(param, bad):
    base = torch.optim.AdamW([param])
    base.register_step_pre_hook(FiniteStepGuard(10))
    optimizer = EquilibriumOptimizer(base, num_inner_steps=1, inner_lr=0.1)

    param.grad = torch.ones(5)
    optimizer.step()

    before = param.detach().clone()
    moments = optimizer.state[param]["exp_avg"].clone()

    param.grad = torch.ones(5)
    param.grad[2] = bad
    optimizer.step()

    assert torch.equal(param, before)
    assert torch.equal(optimizer.state[param]["exp_avg"], moments)


def test_run_ends_after_too_many_in_a_row_and_not_after_as_many_apart(param):
    optimizer = torch.optim.SGD([param], lr=0.1)
    optimizer.register_step_pre_hook(FiniteStepGuard(2))

    for value in (float("nan"), 1.0, float("nan")):
        param.grad = torch.full((5,), value)
        optimizer.step()

    param.grad = torch.full((5,), float("nan"))

    with pytest.raises(TrainingDivergedError, match="2 times in a row"):
        optimizer.step()
