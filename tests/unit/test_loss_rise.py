"""When a loss rises too far along an inner loop, and how the processes of a replica come to one decision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from eqssl_speech.equilibrium import (
    InnerTrace,
    LossRiseError,
    NonFiniteError,
    Replica,
    VoidEpisodeError,
    raise_if_rising,
)
from eqssl_speech.tasks.pretrain.config import EquilibriumSection


def test_losses_are_compared_with_the_first_and_near_zero_with_one_nat() -> None:
    raise_if_rising([4.0, 7.9, 8.0], 2.0)
    raise_if_rising([0.01, 1.9, 0.02], 2.0)
    raise_if_rising([5.0], 2.0)

    with pytest.raises(LossRiseError) as info:
        raise_if_rising([4.0, 3.0, 8.1, 9.0], 2.0)

    assert (info.value.inner_step, info.value.loss, info.value.first_loss) == (2, 8.1, 4.0)

    with pytest.raises(LossRiseError):
        raise_if_rising([0.01, 2.1], 2.0)


class TwoProcesses(Replica):
    """A replica whose other process has what is given."""

    def __init__(self, other: list[float]) -> None:
        self._other = torch.tensor(other)

    def sum(self, values: Tensor) -> Tensor:
        return values + self._other


def test_processes_of_a_replica_decide_on_their_mean_and_leave_out_what_one_has_not() -> None:
    trace = InnerTrace(torch.tensor([3.0]), torch.tensor([0.5]))
    adapted = torch.tensor(7.0)

    # The loss, the norm, the adapted loss; one process; whether it had nothing.
    trace.raise_if_diverged(adapted, TwoProcesses([5.0, 0.5, 8.0, 1.0, 0.0]), max_rise=2.0)

    with pytest.raises(LossRiseError, match=r"8\.5 nats, from 4 at"):
        trace.raise_if_diverged(adapted, TwoProcesses([5.0, 0.5, 10.0, 1.0, 0.0]), max_rise=2.0)

    with pytest.raises(VoidEpisodeError):
        trace.raise_if_diverged(adapted, TwoProcesses([math.nan, 0.5, 1.0, 1.0, 1.0]))

    with pytest.raises(VoidEpisodeError):
        trace.raise_if_diverged(adapted, is_void=True)

    with pytest.raises(NonFiniteError, match="gradient of inner step 0"):
        trace.raise_if_diverged(adapted, TwoProcesses([5.0, math.inf, 8.0, 1.0, 0.0]))


@pytest.mark.parametrize("value", [1.0, 0.5, -2.0, math.inf, math.nan])
def test_rise_out_of_range_is_refused(value: float) -> None:
    (error,) = EquilibriumSection(max_inner_loss_rise=value).validate().errors

    assert error == f"`max_inner_loss_rise` must be greater than 1 and finite, but is {value} instead."  # fmt: skip
    assert not EquilibriumSection(max_inner_loss_rise=1.5).validate().errors
