"""Peak memory: of a variant in a process of its own, and of a piece of work."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

NUM_STEPS = 3
"""The first step has no optimizer state yet; the later ones are alike."""


@dataclass(frozen=True)
class Memory:
    """Peaks over a few outer steps."""

    peak_bytes: int
    """Of live tensors, as the allocator counts them: parameters, AdamW's state, gradients, activations."""

    peak_rss_bytes: int
    """Of the whole process as the system sees it; holes of the allocator included."""


def measure_memory(device: str, run: Callable[[int], None]) -> Memory:
    """Run a variant and return its peaks.

    :param device: ``cpu`` or ``cuda``.
    :param run: Builds everything and takes the given number of outer steps.
    """
    peak = peak_bytes(device, partial(run, NUM_STEPS))

    # Kibibytes, on Linux.
    return Memory(peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def peak_bytes(device: str, run: Callable[[], object]) -> int:
    """Return how much more memory live tensors have at the peak than at the start.

    :param device: ``cpu`` or ``cuda``.
    :param run: Does the work.
    """
    if device != "cuda":
        return _cpu_peak(run)

    torch.cuda.init()

    start = torch.cuda.memory_allocated()

    torch.cuda.reset_peak_memory_stats()

    run()

    return torch.cuda.max_memory_allocated() - start


def _cpu_peak(run: Callable[[], object]) -> int:
    # The profiler sees each allocation and release of torch's CPU allocator; the sum of them so far is what lives.
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        run()

    results: Any = profile.kineto_results

    changes = sorted(
        ((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]"),
        key=lambda change: change[0],
    )

    live = peak = 0

    for _, num_bytes in changes:
        live += num_bytes
        peak = max(peak, live)

    return peak
