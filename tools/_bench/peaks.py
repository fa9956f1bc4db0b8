"""How near the parts of a step come to what the device can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from eqssl_speech.models.wav2vec2.cost import Cost, step_costs

from .job import parse_batch
from .parts import PARTS, QUANTIZER_AND_CONTRAST, WHOLE_STEP
from .sides import DTYPES, OURS, Side, create_config


@dataclass(frozen=True)
class Peaks:
    """What the device was seen to do in the precision of the run."""

    flops_per_s: float
    """In the best of a few matrix products."""

    bytes_per_s: float
    """Read and written, in a copy of more than the caches hold."""

    def least_time_s(self, cost: Cost, element_size: int) -> float:
        """Return the time that arithmetic or traffic take at the least."""
        return max(
            cost.flops / self.flops_per_s, cost.num_elements * element_size / self.bytes_per_s
        )


def measure_peaks(side: Side) -> Peaks:
    """Measure the device of a side."""
    dtype = DTYPES[side.spec.dtype]

    flops_per_s = 0.0
    for rows, inner, columns in ((1024, 1024, 1024), (2048, 1024, 2048), (4096, 512, 512)):
        a = torch.randn(rows, inner, dtype=dtype, device=side.device)
        b = torch.randn(inner, columns, dtype=dtype, device=side.device)
        least_s = _least_time_s(lambda a=a, b=b: a @ b, side.device)  # type: ignore[misc]

        flops_per_s = max(flops_per_s, 2.0 * rows * inner * columns / least_s)

    source = torch.zeros(2**28 // dtype.itemsize, dtype=dtype, device=side.device)
    target = torch.empty_like(source)
    least_s = _least_time_s(lambda: target.copy_(source), side.device)

    return Peaks(flops_per_s, 2.0 * source.nbytes / least_s)


def part_costs(side: Side, num_targets: int) -> dict[str, Cost]:
    """Return what the parts of a step cost that the cost model has.

    :param side: Says what is run.
    :param num_targets: The masked frames of an utterance.
    """
    costs = step_costs(create_config(side.spec.size), *parse_batch(side.spec.batch), num_targets)

    # With the final projections, which the part of that name leaves out.
    contrast = costs.pop("contrast")

    whole = contrast
    for cost in costs.values():
        whole += cost

    costs |= {QUANTIZER_AND_CONTRAST: costs["quantizer"] + contrast, WHOLE_STEP: whole}

    assert costs.keys() <= PARTS.keys()

    return costs


def count_targets(side: Side) -> int:
    """Return the number of masked frames of an utterance in the recorded step."""
    assert side.name == OURS

    _, output = side.take_step(0)

    return output.logits.size(1)


def _least_time_s(run: Callable[[], object], device: torch.device) -> float:
    times_s = []

    for _ in range(10):
        start = time.perf_counter()

        run()

        if device.type == "cuda":
            torch.cuda.synchronize()

        times_s.append(time.perf_counter() - start)

    return min(times_s)
