"""Interleaved timing of variants that share one model and one optimizer."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .variants import OURS, OURS_UNIFORM, PLAIN, Variant


@dataclass
class Timing:
    """What one variant took."""

    times_s: list[float] = field(default_factory=list)
    """The wall-clock time of each outer step."""

    cpu_times_s: list[float] = field(default_factory=list)
    """The processor time of each, over all threads; what a busy machine leaves undisturbed."""

    ratios: list[float] = field(default_factory=list)
    """The wall-clock time over that of the plain step of the same round."""

    cpu_ratios: list[float] = field(default_factory=list)
    """The processor time likewise."""

    grad_deviation: float | None = None
    """The distance of its outer gradient from EquilibriumOptimizer's, relative to the norm of the latter."""

    @property
    def median_s(self) -> float:
        """The median time of an outer step."""
        return statistics.median(self.times_s)

    @property
    def ratio(self) -> float:
        """The median of the ratios of the rounds: what the machine does meanwhile meets both sides of each."""
        return statistics.median(self.ratios)

    @property
    def cpu_ratio(self) -> float:
        """The median of the ratios of processor times."""
        return statistics.median(self.cpu_ratios)


def time_variants(variants: Mapping[str, Variant], num_repeats: int) -> dict[str, Timing]:
    """Take turns: A B C, C B A, A B C, ..."""
    timings = {name: Timing() for name in variants}

    for name in variants:
        _time_step(variants[name])  # Warm-up.

    for repeat in range(num_repeats):
        order = list(variants) if repeat % 2 == 0 else list(reversed(list(variants)))

        for name in order:
            time_s, cpu_time_s = _time_step(variants[name])

            timings[name].times_s.append(time_s)
            timings[name].cpu_times_s.append(cpu_time_s)

        plain = timings[PLAIN]

        for timing in timings.values():
            timing.ratios.append(timing.times_s[-1] / plain.times_s[-1])
            timing.cpu_ratios.append(timing.cpu_times_s[-1] / plain.cpu_times_s[-1])

    return timings


def outer_grad(variant: Variant) -> list[Tensor]:
    """Return the gradient that a variant hands to AdamW, and leave the model as it was."""
    variant.accumulate()

    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in variant.job.params]

    variant.discard()

    return grads


def deviation(grads: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Return ``|grads - reference| / |reference|``."""
    distance = sum(float((g - r).double().square().sum()) for g, r in zip(grads, reference))

    return math.sqrt(distance / sum(float(r.double().square().sum()) for r in reference))


def set_deviations(variants: Mapping[str, Variant]) -> dict[str, float]:
    """Compare the outer gradient of every other library with ours."""
    peers = {name: v for name, v in variants.items() if name not in (PLAIN, OURS, OURS_UNIFORM)}
    if not peers:
        return {}

    reference = outer_grad(variants[OURS])

    return {name: deviation(outer_grad(v), reference) for name, v in peers.items()}


def _time_step(variant: Variant) -> tuple[float, float]:
    variant.job.synchronize()

    start, cpu_start = time.perf_counter(), time.process_time()

    variant.accumulate()
    variant.apply()
    variant.job.synchronize()

    return time.perf_counter() - start, time.process_time() - cpu_start
