"""Timing of two sides in turns, and what their parts cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from fairseq2.recipe.config import AdamWConfig
from torch._dynamo.utils import counters
from torch.optim import AdamW, Optimizer

from .parts import Part, Step
from .sides import HOST, OURS, Side


class Stopwatch:
    """Times pieces of work, one after the other."""

    def __init__(self, device: torch.device) -> None:
        """:param device: The device to wait for."""
        self._device = device

        self.times_s: list[float] = []
        """The wall-clock times."""

        self.cpu_times_s: list[float] = []
        """The processor times, over all threads; what a busy machine disturbs less."""

    @contextmanager
    def lap(self) -> Iterator[None]:
        """Time what is in the block."""
        self._synchronize()

        start, cpu_start = time.perf_counter(), time.process_time()

        yield

        self._synchronize()

        self.times_s.append(time.perf_counter() - start)
        self.cpu_times_s.append(time.process_time() - cpu_start)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


Run = Callable[[Side, int, Stopwatch], None]
"""Does a piece of work on a side, with the random numbers of a seed."""


@dataclass(frozen=True)
class Comparison:
    """What the passes of a part took: by side, a list of rounds of a time per pass."""

    times_s: Mapping[str, list[list[float]]]
    """The wall-clock times."""

    cpu_times_s: Mapping[str, list[list[float]]]
    """The processor times."""

    def to_row(self, passes: slice) -> dict[str, Any]:
        """Return what goes in the file for the sum of some passes.

        A ratio is the median of those of the rounds: what the machine does meanwhile meets both sides of each.
        """
        times_s, cpu_times_s = (
            {name: [sum(laps[passes]) for laps in rounds] for name, rounds in times.items()}
            for times in (self.times_s, self.cpu_times_s)
        )
        ratios, cpu_ratios = (
            [host / ours for host, ours in zip(t[HOST], t[OURS])] for t in (times_s, cpu_times_s)
        )

        return {
            "median_s": {name: statistics.median(times) for name, times in times_s.items()},
            "speedup": statistics.median(ratios),
            "speedup_min": min(ratios),
            "speedup_max": max(ratios),
            "cpu_speedup": statistics.median(cpu_ratios),
            "times_s": times_s,
            "cpu_times_s": cpu_times_s,
        }


def compare_times(run: Run, sides: Mapping[str, Side], num_rounds: int) -> Comparison:
    """Take turns: A B, B A, A B, ..., each round with random numbers of its own, the same for both.

    The host makes a new compiled function in each forward pass, which dynamo serves from its cache unless the number
    of targets is one that it has no code for. A round in which its compiler ran does not count and is taken again.
    """
    for side in sides.values():
        run(side, 0, Stopwatch(side.device))  # Warm-up.

    names = list(sides)
    watches: dict[str, list[Stopwatch]] = {name: [] for name in names}
    seed = 0

    while len(watches[HOST]) < num_rounds:
        seed += 1
        num_graphs = count_compiled_graphs()
        watch = {name: Stopwatch(sides[name].device) for name in names}

        for name in names if seed % 2 else reversed(names):
            run(sides[name], seed, watch[name])

        if count_compiled_graphs() == num_graphs:
            for name in names:
                watches[name].append(watch[name])

    return Comparison(
        {name: [w.times_s for w in watches[name]] for name in names},
        {name: [w.cpu_times_s for w in watches[name]] for name in names},
    )


def count_compiled_graphs() -> int:
    """Return how many graphs dynamo has compiled in this process."""
    return int(counters["stats"]["unique_graphs"])


def part_run(part: Part, steps: Mapping[str, Step]) -> Run:
    """Return a run of a part, in two laps: forward, and backward from a random gradient.

    :param part: The part.
    :param steps: What it is fed with, by side.
    """

    def run(side: Side, seed: int, watch: Stopwatch) -> None:
        side.begin(seed)

        with watch.lap(), side.autocast():
            outputs = part(side.model, steps[side.name])

        # Contiguous, as what comes from the parts behind it.
        grads = [torch.randn(x.shape, dtype=x.dtype, device=x.device) for x in outputs]

        with watch.lap():
            torch.autograd.backward(outputs, grads)

        side.model.zero_grad()

    return run


def optimizer_run(sides: Mapping[str, Side], configs: Mapping[str, AdamWConfig]) -> Run:
    """Return a run of an optimizer's step, in one lap; the parameters serve as their own gradients.

    :param sides: The sides.
    :param configs: The settings of the recipe of each, by name. The learning rate is not used but 0, so that the
        sides keep the same weights.
    """
    optimizers = {name: _create_optimizer(side, configs[name]) for name, side in sides.items()}

    for side in sides.values():
        for param in side.model.parameters():
            param.grad = param.detach().clone()

    def run(side: Side, seed: int, watch: Stopwatch) -> None:
        with watch.lap():
            optimizers[side.name].step()

    return run


def _create_optimizer(side: Side, config: AdamWConfig) -> Optimizer:
    impl: dict[str, Any] = {"auto": {}, "naive": {"foreach": False}}.get(
        config.impl, {config.impl: True}
    )

    return AdamW(
        side.model.parameters(),
        lr=0.0,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        **impl,
    )
