"""Interleaved timing of variants that share one model and one optimizer."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .variants import OURS, PLAIN, Variant


@dataclass
class Timing:
    """What one variant took."""

    times_s: list[float] = field(default_factory=list)
    """The wall-clock time of each outer step."""

    ratios: list[float] = field(default_factory=list)
    """The same over the plain step of the same round."""

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


def time_variants(variants: Mapping[str, Variant], num_repeats: int) -> dict[str, Timing]:
    """Take turns: A B C, C B A, A B C, ..."""
    timings = {name: Timing() for name in variants}

    for name in variants:
        _time_step(variants[name])  # Warm-up.

    for repeat in range(num_repeats):
        order = list(variants) if repeat % 2 == 0 else list(reversed(list(variants)))

        for name in order:
            timings[name].times_s.append(_time_step(variants[name]))

        for timing in timings.values():
            timing.ratios.append(timing.times_s[-1] / timings[PLAIN].times_s[-1])

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
    peers = {name: v for name, v in variants.items() if name not in (PLAIN, OURS)}
    if not peers:
        return {}

    reference = outer_grad(variants[OURS])

    return {name: deviation(outer_grad(v), reference) for name, v in peers.items()}


def _time_step(variant: Variant) -> float:
    variant.job.synchronize()

    start = time.perf_counter()

    variant.accumulate()
    variant.apply()
    variant.job.synchronize()

    return time.perf_counter() - start
