"""Which of torch's operators a step spends its time in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.profiler import ProfilerActivity, profile

from .sides import Side


@dataclass(frozen=True)
class Operator:
    """An operator of a step, forward and backward."""

    name: str

    time_s: float
    """In itself, without the operators that it calls: of the processor, or of the GPU where there is one."""

    share: float
    """Of the time of all operators, in [0, 1]."""

    num_calls: int


def largest_operators(side: Side, num_operators: int) -> list[Operator]:
    """Profile a step.

    :param side: The model and its batch.
    :param num_operators: How many operators to return, those first that take the most time.
    """
    on_gpu = side.device.type == "cuda"

    side.take_step(seed=0)  # Warm-up.

    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as profiler:
        side.take_step(seed=0)

    events: list[Any] = list(profiler.key_averages())
    times_us = [e.self_device_time_total if on_gpu else e.self_cpu_time_total for e in events]

    operators = [
        Operator(event.key, 1e-6 * time_us, time_us / sum(times_us), event.count)
        for event, time_us in zip(events, times_us)
    ]

    return sorted(operators, key=lambda o: -o.time_s)[:num_operators]
